/* SPDX-License-Identifier: MIT */
/* worker_proto.h: what the two ends of a compile worker say to each other over a stream socket. Private to worker*.c.
 */
#ifndef BPFTIME_VM_WORKER_PROTO_H
#define BPFTIME_VM_WORKER_PROTO_H

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#define WORKER_MAGIC	 0x746a6d76u /* "vmjt" */
#define WORKER_MAX_INSNS 1000000u    /* the kernel's own limit */
#define WORKER_MAX_BYTES (64u << 20) /* of bitcode, of one blob, of code */
#define WORKER_MAX_BLOBS 64u
#define WORKER_MAX_IDS	 4096u
#define WORKER_NAME_SIZE 64u
#define WORKER_ERR_SIZE	 512u

/* Followed by the instructions, the bitcode, for each blob its header and data, and the numbers of the helpers. */
struct worker_request {
	uint32_t magic;
	uint32_t n_insns;
	uint32_t bitcode_size;
	uint32_t n_blobs;
	uint32_t atomic_rmw;
	uint32_t env_calls;
	uint32_t verified;
	uint32_t native;
	uint32_t features;
	uint32_t n_helper_ids;
};

struct worker_blob {
	char name[WORKER_NAME_SIZE];
	uint32_t size;
};

/* Followed by the code. */
struct worker_reply {
	uint32_t magic;
	int32_t result;
	uint64_t code_size;
	uint64_t entry;
	uint64_t stack_size;
	char err[WORKER_ERR_SIZE];
};

#endif
