/* os/entropy.h - unpredictable bytes from the kernel: ids, keys, nonces. */
#pragma once

#include <stddef.h>

void entropy_fill(void *at, size_t bytes); /* ends the process when the kernel has none to give */
/* `bytes` random bytes as lower-case hexadecimal; out holds 2·bytes+1. */
void entropy_hex(char *out, size_t bytes);
