/* api/start.h - what a job begins with: the weights of its model, or those that from_checkpoint names.
 *
 * They are a folder here, or a repository of the Hugging Face Hub that has to be fetched first; the job then waits with
 * a note of what it waits for (base_json, hub/fetcher.h), and what only the model's files can tell is checked when they
 * are here. from_checkpoint is {"type": "hf", "repo", "revision", "token"} or {"type": "ft", "job_id" and/or
 * "checkpoint_id"}; the token has left the request before (api/secret_json.h). */
#pragma once

#include "api/api_int.h"
#include "api/job_request.h"

struct job_start {
    struct model_place place; /* path is "" while it has to be fetched */
    const char *base_json;    /* NULL: all of it is here */
    const char *echo_json;    /* from_checkpoint as echoed; NULL: none was given */
};

/* False: answered that it is not there. What is wrong with a field is gathered. */
bool start_find(struct call *call, const struct job_request *request, struct job_start *start,
                struct problems *problems);
