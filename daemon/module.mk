# daemon: see ../Makefile for the rules
