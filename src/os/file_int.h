/* os/file_int.h - what file.c, fd.c and folder.c share: how a system call that failed is told. */
#pragma once

#include "os/file.h"

#include <sys/types.h>

/* "cannot <what> <path>: <errno's text>" with the code that errno stands for. Returns false. */
bool file_fail(struct err *err, const char *what, const char *path);
/* open(2), close-on-exec, again when a signal interrupts it. */
int file_open_retry(const char *path, int flags, mode_t mode);
