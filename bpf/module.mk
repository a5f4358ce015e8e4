# bpf: see ../Makefile for the rules
