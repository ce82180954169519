/* track/result.h - where the result of a job lies, for the senders that hand it on. */
#pragma once

#include "base/json.h"
#include "store/store.h"

struct result_place {
    struct store *store;
    const char *data_dir;
    const struct tenant *tenant;
    const struct store_job *job;
};
/* The value of "result" in a sender's document: folder (of the final checkpoint), run_dir, base_model (the base's id),
 * base_path, metrics (the checkpoint's); null when the job did not succeed. The final checkpoint stays for as long as its
 * job is there. */
bool result_write(struct json_writer *w, const struct result_place *place, struct arena *arena, struct err *err);
