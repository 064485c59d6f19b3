"""What people see in a terminal. It only watches: nothing here changes a study."""
