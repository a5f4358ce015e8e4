/* SPDX-License-Identifier: MIT */
/*
 * sampler.h: where the processors are, in user mode, a thousand times a second. What runs pays nothing for it but the
 * interrupts: so time spent in code that is hit can be told without a clock at each hit.
 */
#ifndef BPFTIME_SAMPLER_H
#define BPFTIME_SAMPLER_H

#include <stdint.h>
#include <sys/types.h>

struct sampler;

/* Processor time that one sample stands for. */
#define SAMPLE_NS 1000003u /* a prime: not in step with what happens every millisecond */

/* Begins on all processors. NULL: the kernel does not allow it. */
struct sampler *sampler__new(void);
/* NULL is allowed. */
void sampler__free(struct sampler *s);
/* Calls cb for every sample since the last time. To be called once a second at least: else some are lost. */
void sampler__read(struct sampler *s, void (*cb)(pid_t pid, uint64_t address, void *arg), void *arg);

#endif
