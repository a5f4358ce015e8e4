# shm-runtime: see ../Makefile for the rules
