# examples: see ../Makefile for the rules
