/* Artifacts of a run, through the tracking server's own proxy: /api/2.0/mlflow-artifacts.
 *
 * Where a run's artifacts lie is in its artifact_uri; "mlflow-artifacts:/PATH" is the proxy. Others (s3:, file:,
 * another host) are reached with credentials that a tracking server does not hand out, so they get none. */
#include "hub/name.h"
#include "track/result.h"
#include "track/sending.h"

#define API    "/api/2.0/mlflow-artifacts/artifacts"
#define SCHEME "mlflow-artifacts:/"
#define FOLDER "result"

/* The path of the run's artifacts without a slash at its ends; NULL: not at the proxy, or err is set. */
static const char *find_root(struct sending *s, const char *run_id, struct err *err)
{
    const struct json *run = sending_call(
        s, "GET", arena_printf(s->arena, "/api/2.0/mlflow/runs/get?run_id=%s", run_id), STR_NONE, NULL, err);
    struct str uri = json_string_or(json_get(json_get(json_get(run, "run"), "info"), "artifact_uri"), STR_NONE), path;

    if (!str_starts(uri, STR(SCHEME)))
        return NULL;
    path = str_slice(uri, sizeof SCHEME - 1, uri.len);
    return hub_name_is_path(path) ? str_copy(s->arena, path) : NULL; /* "//host/…" is none */
}

/* What a sender before this one has sent; a server that cannot list is sent everything. */
static const struct json *list_there(struct sending *s, const char *root)
{
    const char *path = hub_name_encode(s->arena, str_of(root), false);
    const struct json *answer = sending_call(
        s, "GET", arena_printf(s->arena, API "?path=%s%%2F" FOLDER, path), STR_NONE, NULL, NULL);

    return json_get(answer, "files");
}

static bool is_there(const struct json *there, const struct result_file *file)
{
    json_each(entry, there) {
        const struct json *size = json_get(entry, "file_size");
        struct str path = json_string_or(json_get(entry, "path"), STR_NONE);
        int64_t bytes = json_integer_or(size, -1);

        if (json_has_type(size, JSON_STRING) && !str_to_i64(size->string, &bytes))
            continue;
        if (str_is(path, file->path) && bytes == (int64_t)file->bytes)
            return true;
    }
    return false;
}

bool mlflow_send_artifacts(struct sending *s, const char *run_id, struct err *err)
{
    const char *folder = sending_text(s, "result", "folder"), *root;
    struct err problem = {0};
    const struct json *there;
    struct result_files files;

    if (!result_list(s->arena, folder, &files, err))
        return false;
    root = find_root(s, run_id, &problem);
    if (!root && problem.code) {
        *err = problem;
        return false;
    }
    if (!root)
        return sending_tell_event(s, "artifacts",
                                  "MLflow keeps artifacts of the run elsewhere: the result is not sent there", err);
    there = list_there(s, root);
    for (size_t i = 0; i < files.count; i++) {
        const char *path =
            arena_printf(s->arena, API "/%s/" FOLDER "/%s", hub_name_encode(s->arena, str_of(root), true),
                         hub_name_encode(s->arena, str_of(files.at[i].path), true));

        if (!is_there(there, &files.at[i]) &&
            !sending_put_file(s, path, files.at[i].place, files.at[i].bytes, err))
            return err_prefix(err, "%s", files.at[i].path);
    }
    return true;
}
