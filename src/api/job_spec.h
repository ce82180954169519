/* api/job_spec.h - a request that has passed all checks as what the queue keeps of it: columns, and the parts of
 * job.json that the trainer reads (docs/formats.md). */
#pragma once

#include "api/integrations.h"
#include "api/start.h"

/* All of it lies in the call's arena. */
struct job_spec job_spec_make(struct call *call, const struct job_request *request,
                              const struct integrations *integrations, const struct job_start *start);
