// SPDX-License-Identifier: MIT
#include "vm.h"

#include <stdlib.h>
#include <string.h>

void vm_code__clear(struct vm_code *code)
{
	free(code->bytes);
	memset(code, 0, sizeof(*code));
}
