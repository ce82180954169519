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
 * base_path, metrics (the checkpoint's); null when the job did not succeed. The final checkpoint stays for as long as
 * its job is there. */
bool result_write(struct json_writer *w, const struct result_place *place, struct arena *arena, struct err *err);

/* The files of such a folder, as its MANIFEST has them: for the sender. */
enum { RESULT_FILES_MAX = 1024 };
struct result_file {
    const char *path;  /* relative, without a step upwards */
    const char *place; /* on the disk */
    uint64_t bytes;
    char sha256[65];
};
struct result_files {
    struct result_file *at;
    size_t count;
    bool is_adapter;
};
/* ERR_NOT_FOUND when one is not there with the size that it had. */
bool result_list(struct arena *arena, const char *folder, struct result_files *files, struct err *err);
