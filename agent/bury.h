/* SPDX-License-Identifier: MIT */
/*
 * bury.h: how the uprobes that protect places end, and when: see agent_bury_holds().
 *
 * The kernel has one uprobe for an instruction of a file, whoever wants it. When one who wanted it goes, it takes the
 * int3 from every process that nobody wants it in, and so from fork children, of whatever target, that are not repaired
 * yet. So a uprobe can end when no process has a jump at its instruction, and none is born with it.
 */
#ifndef BPFTIME_AGENT_BURY_H
#define BPFTIME_AGENT_BURY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Probed instructions, as buckets of a table: two that share one only wait for each other. */
struct instructions {
	uint32_t *bucket;
	size_t n;
};

uint32_t instruction_bucket(dev_t dev, ino_t ino, uint64_t offset);
/*
 * Some process is to have a jump there; it has none any more. The first waits, a tenth of a second, while a uprobe of
 * that instruction is being closed. Any thread.
 */
void instruction_use(uint32_t bucket);
void instruction_unuse(uint32_t bucket);

/*
 * Closes the descriptors of uprobes at these instructions that were limited to a process, -1: none; or keeps them for
 * agent_close_buried(). aside: nobody waits for it.
 */
void uprobes_end(pid_t pid, int link, int event, const struct instructions *at, bool aside);

#endif
