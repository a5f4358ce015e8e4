# tests: each unit test is tests/unit/test_X.c; its module adds $(B)/tests/unit/test_X to UNIT with its objects.
$(B)/tests/unit/test_%: $(B)/tests/unit/test_%.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LIBS) -lcmocka
