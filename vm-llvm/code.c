// SPDX-License-Identifier: MIT
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void vm_code__clear(struct vm_code *code)
{
	free(code->bytes);
	memset(code, 0, sizeof(*code));
}

void *vm_code__map(const struct vm_code *code, void **mem)
{
	*mem = mmap(NULL, code->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (*mem == MAP_FAILED)
		return NULL;
	memcpy(*mem, code->bytes, code->size);
	if (mprotect(*mem, code->size, PROT_READ | PROT_EXEC)) {
		int e = errno;

		munmap(*mem, code->size);
		errno = e;
		return NULL;
	}
	return (uint8_t *)*mem + code->entry;
}

void vm_code__unmap(const struct vm_code *code, void *mem)
{
	munmap(mem, code->size);
}
