# tests/bench: `make bench`
$(B)/tests/bench/target: $(B)/tests/bench/target.o $(B)/tests/bench/functions.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lpthread

$(B)/tests/bench/crowd: $(B)/tests/bench/crowd.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lpthread

$(B)/tests/bench/probe: $(B)/tests/bench/probe.o $(B)/daemon/uprobe.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf

$(B)/tests/bench/many: $(B)/tests/bench/many.o $(B)/daemon/uprobe.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf

$(B)/tests/bench/places: $(B)/tests/bench/places.o $(B)/libagent.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lZydis -lbpf -lelf -lz -lpthread

bench: all $(B)/tests/bench/target $(B)/tests/bench/probe $(B)/tests/bench/places $(B)/tests/bench/many $(B)/tests/bench/crowd
	@tests/bench/run $(B)
	@tests/bench/halves $(B)
	@tests/bench/scale $(B)
