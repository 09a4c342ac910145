"""Parts that research left behind: recipes can name them (part: contrib.advantage), and no preset has one."""
