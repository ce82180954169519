/* cli/job_watch.h - following a job of a running server on the terminal: its events as lines, and its steps as a bar
 * where there is one to draw on. */
#pragma once

#include "cli/remote.h"

/* Returns when the job has ended: true when it succeeded. A server that goes away is waited for, five minutes long. */
bool job_watch(const struct remote *remote, const char *id, struct err *err);
