/* api/secret_json.h - secrets in the JSON of requests: taken out at the door.
 *
 * A request that brings secrets is read by take_secret_json. Whoever reads a member that is one takes it with
 * secret_json_take: the bytes move into a struct secret and are erased from the tree. Members of a job's request that
 * are secrets by their place are erased before anything else looks at it, so that neither an error, a row nor the
 * fingerprint of an Idempotency-Key can hold them. */
#pragma once

#include "base/json.h"
#include "os/secret.h"

/* A text of 1 to STORE_SECRET_BYTES_MAX bytes without NUL; anything else is false, and is erased all the same. The
 * member is null afterwards. member may be NULL. */
bool secret_json_take(struct json *member, struct secret *value);

/* A secret of a job's request: "integrations.0.wandb.api_key", "from_checkpoint.token". */
struct job_secret {
    const char *name; /* in the arena */
    struct secret value;
};
struct job_secrets {
    struct job_secret *at;
    size_t count;
};
enum { JOB_SECRETS_MAX = 32 };
/* Takes all of them, also out of members that the request has twice. False when one is no text or there are too many;
 * `wrong` then names it. Everything is erased in any case. */
bool job_secrets_take(struct arena *arena, struct json *body, struct job_secrets *secrets, const char **wrong);
void job_secrets_wipe(struct job_secrets *secrets);
