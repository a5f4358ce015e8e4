# systemd: see ../Makefile for the rules
