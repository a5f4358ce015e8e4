# agent: see ../Makefile for the rules
