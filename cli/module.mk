# cli: see ../Makefile for the rules
