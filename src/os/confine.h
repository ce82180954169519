/* os/confine.h - takes from this process what work on strangers' bytes does not need. */
#pragma once

#include "base/err.h"

#include <stdint.h>

/* From here on this process, and every thread that it starts, opens no sockets and runs no programs: both fail with
 * EACCES; what is open stays. It gets at most memory_bytes of memory of its own (0: no bound; files that it maps to
 * read do not count; sanitizers, which reserve terabytes, are not bound). Before the first thread. Where the kernel
 * filters no system calls memory alone is bound. */
bool confine_process(int64_t memory_bytes, struct err *err);
