module replayer

go 1.22
