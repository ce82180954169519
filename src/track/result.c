#include "track/result.h"

#include "job/rundir.h"

static void put_raw(struct json_writer *w, const char *key, const char *json)
{
    json_write_key(w, key);
    json_write_raw(w, str_of(json ? json : "null"));
}

/* The result's name may have been deleted meanwhile; then the job's own base is the best that is known. */
static const char *find_base(const struct result_place *place, struct arena *arena)
{
    const struct store_job *job = place->job;
    struct store_model model;

    if (job->fine_tuned_model &&
        store_model_get(place->store, place->tenant, job->fine_tuned_model, arena, &model, NULL))
        return model.base_model;
    return job->model;
}

bool result_write(struct json_writer *w, const struct result_place *place, struct arena *arena, struct err *err)
{
    const struct store_job *job = place->job;
    const struct store_page newest = {.limit = 1};
    struct store_checkpoint_list list = {0};

    if (job->state == JOB_STATE_succeeded &&
        !store_checkpoint_list(place->store, place->tenant, job->id, &newest, arena, &list, err))
        return false;
    if (list.count == 0) {
        json_write_null(w);
        return true;
    }
    json_write_begin_object(w);
    json_put_text(w, "folder", rundir_place(arena, place->data_dir, job->id, list.at[0].path));
    json_put_text(w, "run_dir", rundir_path(arena, place->data_dir, job->id));
    json_put_text(w, "base_model", find_base(place, arena));
    json_put_text(w, "base_path", job->model_path);
    put_raw(w, "metrics", list.at[0].metrics_json);
    json_write_end_object(w);
    return true;
}
