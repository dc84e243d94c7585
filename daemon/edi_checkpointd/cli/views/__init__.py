"""What the commands show: one module for each subject, such as status, differences or events."""
