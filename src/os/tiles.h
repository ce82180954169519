/* os/tiles.h - the processor's tile registers (AMX), which the kernel gives to a process that asks. */
#pragma once

#include <stdbool.h>

/* Whether this process and all its threads may use tiles from here on: the processor multiplies bf16 in them, and the
 * kernel saves them. Asks the kernel the first time; costs nothing afterwards. */
bool tiles_allow(void);
