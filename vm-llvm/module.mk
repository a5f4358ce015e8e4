# vm-llvm: see ../Makefile for the rules
