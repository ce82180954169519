/* cli/job_waiting.h - how the job manager waits in the server: its descriptors and its deadline are those of the HTTP
 * loop. */
#pragma once

#include "http/loop.h"
#include "job/manager.h"

struct job_waiting {
    struct http_loop *loop;
    struct http_timer *timer;
    struct job_manager *manager; /* the caller's to set, as soon as there is one */
};

/* What goes into the manager's config. The waiting must outlive the manager. */
struct job_loop job_waiting_begin(struct job_waiting *waiting, struct http_loop *loop);
void job_waiting_end(struct job_waiting *waiting); /* of a zeroed struct: nothing */
