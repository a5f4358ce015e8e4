/* SPDX-License-Identifier: MIT */
#include "daemon/library.h"

const unsigned char library_bitcode[] = {
#include "agent/helpers.bc.inc"
};
const size_t library_bitcode_size = sizeof(library_bitcode);
