#include "store/queue.h"

#include "os/clock.h"
#include "store/store_int.h"

#include <string.h>

#define SELECT_JOB "SELECT number" STORE_JOB_COLUMNS(SQL_NAME) " FROM jobs "

static struct tenant tenant_of(const struct store_job *job)
{
    struct tenant tenant = {0};

    strncpy(tenant.organization_id, job->organization_id, sizeof tenant.organization_id - 1);
    strncpy(tenant.project_id, job->project_id, sizeof tenant.project_id - 1);
    return tenant;
}

/* An event of the service about the job's state. For step stands what tells it from the next of its code: the attempt
 * for moves, the time for wishes, which may come again and again. */
static bool add_job_event(struct store *store, const struct store_job *job, int64_t step, const char *level,
                          const char *code, const char *message, struct err *err)
{
    struct tenant tenant = tenant_of(job);
    struct store_event event = {.kind = "job",
                                .code = code,
                                .step = step,
                                .attempt = job->attempt,
                                .level = level,
                                .message = message,
                                .type = "message",
                                .created_ms = clock_unix_ms()};

    return event_insert(store, &tenant, job->id, &event, err);
}

static bool insert_job(struct store *store, const struct store_job *job, struct err *err)
{
    struct query query = query_open(
        store, "INSERT INTO jobs(number" STORE_JOB_COLUMNS(SQL_NAME) ") VALUES (NULL" STORE_JOB_COLUMNS(SQL_MARK) ")");

    row_bind(&query, &store_job_row, job);
    return query_run(&query, NULL, err);
}

static bool insert_extra(struct store *store, const struct tenant *tenant, const struct store_job *job,
                         const struct store_job_extra *extra, struct err *err)
{
    for (size_t i = 0; i < extra->secret_count; i++)
        if (!secret_insert_held(store, tenant, job->id, &extra->secrets[i], err))
            return false;
    for (size_t i = 0; i < extra->delivery_count; i++)
        if (!delivery_insert(store, job, &extra->deliveries[i], err))
            return false;
    return true;
}

bool store_queue_insert(struct store *store, const struct store_job *job, struct err *err)
{
    return store_queue_insert_with(store, job, &(struct store_job_extra){0}, err);
}

bool store_queue_insert_with(struct store *store, const struct store_job *job, const struct store_job_extra *extra,
                             struct err *err)
{
    struct tenant tenant = tenant_of(job);

    queue_places_changed(store);
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store,
                           insert_job(store, job, err) && insert_extra(store, &tenant, job, extra, err) &&
                               add_job_event(store, job, 0, "info", "submitted", "Job is submitted", err) &&
                               quota_holds(store, &tenant, err),
                           err);
}

bool store_queue_get(struct store *store, const char *id, struct arena *arena, struct store_job *job, struct err *err)
{
    struct query query = query_open(store, SELECT_JOB "WHERE id=?");

    query_text(&query, id);
    return row_get_one(&query, &store_job_row, arena, job, "fine-tuning job", id, err);
}

static bool get_if_any(struct query *query, struct arena *arena, struct store_job *job, bool *found, struct err *err)
{
    *found = query_step(query);
    if (*found)
        row_get(query, &store_job_row, arena, job);
    return query_close(query, err);
}

bool store_queue_peek(struct store *store, const char *passed_over_json, const char *devices_json, struct arena *arena,
                      struct store_job *job, bool *found, struct err *err)
{
    struct query query = query_open(
        store, SELECT_JOB
        "WHERE number = (SELECT j.number FROM jobs j JOIN projects p ON p.organization_id = j.organization_id AND "
        "p.id = j.project_id LEFT JOIN (SELECT organization_id, project_id, COUNT(*) AS active FROM jobs WHERE state "
        "IN ('starting', 'running', 'cancelling') GROUP BY organization_id, project_id) a ON a.organization_id = "
        "j.organization_id AND a.project_id = j.project_id WHERE j.state = 'queued' AND j.wanted = 'run' AND "
        "j.base_json IS NULL AND (p.running_jobs_max = 0 OR COALESCE(a.active, 0) < p.running_jobs_max) AND j.id NOT "
        "IN (SELECT value FROM json_each(?1)) AND (?2 IS NULL OR COALESCE(j.device, 'cpu') IN "
        "(SELECT value FROM json_each(?2))) ORDER BY COALESCE(a.active, 0), p.last_turn, j.priority DESC, j.number "
        "LIMIT 1)");

    query_text(&query, passed_over_json);
    query_text(&query, devices_json);
    return get_if_any(&query, arena, job, found, err);
}

static bool claim(struct store *store, const char *id, const char *device, struct arena *arena, struct store_job *job,
                  bool *found, struct err *err)
{
    struct query query =
        query_open(store, "UPDATE jobs SET state='starting', attempt=attempt+1, events_offset=0, pid=0, "
                          "turn=(SELECT MAX(last_turn) + 1 FROM projects), placed_on=?2 "
                          "WHERE id=?1 AND state='queued' AND wanted='run' AND base_json IS NULL "
                          "RETURNING number" STORE_JOB_COLUMNS(SQL_NAME));

    query_text(&query, id);
    query_text(&query, device);
    *found = query_step(&query);
    if (*found)
        row_get(&query, &store_job_row, arena, job);
    return query_run(&query, NULL, err);
}

/* The project goes to the end of the round. */
static bool take_turn(struct store *store, const struct store_job *job, struct err *err)
{
    struct query query = query_open(store, "UPDATE projects SET last_turn = (SELECT MAX(last_turn) + 1 FROM projects) "
                                           "WHERE organization_id=? AND id=?");

    query_text(&query, job->organization_id);
    query_text(&query, job->project_id);
    return query_run(&query, NULL, err);
}

bool store_queue_claim(struct store *store, const char *id, const char *device, struct arena *arena,
                       struct store_job *job, bool *found, struct err *err)
{
    queue_places_changed(store);
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(
        store, claim(store, id, device, arena, job, found, err) && (!*found || take_turn(store, job, err)), err);
}

static bool list_jobs(struct query query, struct arena *arena, struct store_job_list *list, struct err *err)
{
    size_t capacity = 0;

    *list = (struct store_job_list){0};
    while (query_step(&query)) {
        if (list->count == capacity) {
            struct store_job *old = list->at;

            capacity = capacity ? 2 * capacity : 16;
            list->at = arena_new_array(arena, struct store_job, capacity);
            if (old)
                memcpy(list->at, old, list->count * sizeof *old);
        }
        row_get(&query, &store_job_row, arena, &list->at[list->count++]);
    }
    return query_close(&query, err);
}

bool store_queue_active(struct store *store, struct arena *arena, struct store_job_list *list, struct err *err)
{
    return list_jobs(
        query_open(store, SELECT_JOB "WHERE state IN ('starting', 'running', 'cancelling') ORDER BY number"), arena,
        list, err);
}

bool store_queue_to_fetch(struct store *store, struct arena *arena, struct store_job_list *list, struct err *err)
{
    return list_jobs(query_open(store, SELECT_JOB "WHERE state = 'queued' AND base_json IS NOT NULL ORDER BY number"),
                     arena, list, err);
}

static bool set_base(struct store *store, const struct store_job *job, struct err *err)
{
    struct query query =
        query_open(store, "UPDATE jobs SET base_json=NULL, model_path=?, hyperparameters_json=?, method_json=?, "
                          "memory_bytes=?, disk_bytes=? WHERE id=? AND state='queued' AND base_json IS NOT NULL");
    int changed;

    query_text(&query, job->model_path);
    query_text(&query, job->hyperparameters_json);
    query_text(&query, job->method_json);
    query_integer(&query, job->memory_bytes);
    query_integer(&query, job->disk_bytes);
    query_text(&query, job->id);
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_CONFLICT, "%s does not wait for its weights", job->id);
}

bool store_queue_base_arrived(struct store *store, const struct store_job *job, struct err *err)
{
    queue_places_changed(store);
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(
        store,
        set_base(store, job, err) &&
            add_job_event(store, job, 0, "info", "base_arrived", "The weights that the job begins with are here", err),
        err);
}

static bool stale(const char *id, int64_t attempt, struct err *err)
{
    return err_set(err, ERR_CONFLICT, "attempt %lld of %s is not the one that runs", (long long)attempt, id);
}

static bool set_running(struct store *store, const char *id, int64_t attempt, const struct store_process *process,
                        struct err *err)
{
    struct query query =
        query_open(store, "UPDATE jobs SET state='running', pid=?3, pid_start_time=?4, boot_id=?5, "
                          "device_until_ms=?6, started_ms=CASE started_ms WHEN 0 THEN ?6 ELSE started_ms END "
                          "WHERE id=?1 AND attempt=?2 AND state='starting'");
    int changed;

    query_text(&query, id);
    query_integer(&query, attempt);
    query_integer(&query, process->pid);
    query_integer(&query, process->start_time);
    query_text(&query, process->boot_id);
    query_integer(&query, clock_unix_ms());
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || stale(id, attempt, err);
}

bool store_queue_running(struct store *store, const char *id, int64_t attempt, const struct store_process *process,
                         struct err *err)
{
    struct arena arena = {0};
    struct store_job job;
    bool ok;

    if (!transaction_begin(store, err))
        return false;
    ok = set_running(store, id, attempt, process, err) && store_queue_get(store, id, &arena, &job, err) &&
         add_job_event(store, &job, attempt, "info", "started",
                       attempt == 1 ? "Fine-tuning job started" : "Fine-tuning job started again", err);
    ok = transaction_end(store, ok, err);
    arena_deinit(&arena);
    return ok;
}

/* What is counted as time on the device without an event in it: a trainer that is silent for longer has died, perhaps
 * while no server was there to see it. */
enum { SILENCE_MS_MAX = 10 * 60 * 1000 };

static bool set_state(struct store *store, const struct store_move *move, struct err *err)
{
    struct query query = query_open(
        store,
        "UPDATE jobs SET state=?3, error_code=?4, error_message=?5, error_param=?6, failed_attempts=?7, "
        "recovery_step=?8, estimated_finish_ms=0, "
        "wanted=CASE WHEN ?3 IN ('cancelling', 'cancelled') THEN 'cancel' ELSE wanted END, "
        "pid=CASE ?3 WHEN 'cancelling' THEN pid ELSE 0 END, "
        "device_ms=device_ms + CASE device_until_ms WHEN 0 THEN 0 ELSE MAX(0, MIN(?9 - device_until_ms, ?10)) END, "
        "device_until_ms=CASE WHEN ?3='cancelling' AND device_until_ms>0 THEN ?9 ELSE 0 END, "
        "fine_tuned_model=CASE ?3 WHEN 'succeeded' THEN output_name END, "
        "finished_ms=CASE WHEN ?3='queued' THEN 0 WHEN finished_ms=0 THEN ?9 ELSE finished_ms END "
        "WHERE id=?1 AND attempt=?2");
    int changed;

    query_text(&query, move->id);
    query_integer(&query, move->attempt);
    query_text(&query, job_state_name(move->to));
    query_text(&query, move->error_code);
    query_text(&query, move->error_message);
    query_text(&query, move->error_param);
    query_integer(&query, move->failed_attempts);
    query_integer(&query, move->recovery_step);
    query_integer(&query, clock_unix_ms());
    query_integer(&query, SILENCE_MS_MAX);
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || stale(move->id, move->attempt, err);
}

/* The result's name stands for the weights of the newest checkpoint. */
static bool publish(struct store *store, const struct store_job *job, struct err *err)
{
    struct query query = query_open(
        store,
        "INSERT INTO models(organization_id, project_id, name, job_id, checkpoint_id, kind, base_model, base_path, "
        "path, created_ms) SELECT j.organization_id, j.project_id, j.output_name, j.id, c.id, "
        "CASE WHEN json_extract(j.hyperparameters_json, '$.lora') THEN 'lora' ELSE 'full' END, j.model, j.model_path, "
        "c.path, ?2 FROM jobs j JOIN checkpoints c ON c.job_id = j.id WHERE j.id=?1 ORDER BY c.step DESC LIMIT 1");
    int changed;

    query_text(&query, job->id);
    query_integer(&query, clock_unix_ms());
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_CONFLICT, "%s ended without a checkpoint", job->id);
}

static bool add_result_file(struct store *store, const struct store_job *job, const struct store_file *file,
                            struct err *err)
{
    struct tenant tenant = tenant_of(job);
    struct query query = query_open(store, "UPDATE jobs SET result_files_json=json_array(?) WHERE id=?");

    query_text(&query, file->id);
    query_text(&query, job->id);
    return query_run(&query, NULL, err) && file_insert(store, &tenant, file, err);
}

bool store_queue_move(struct store *store, const struct store_move *move, struct err *err)
{
    struct arena arena = {0};
    struct store_job job;
    bool ok;

    queue_places_changed(store);
    if (!transaction_begin(store, err))
        return false;
    ok = store_queue_get(store, move->id, &arena, &job, err);
    if (ok && !job_state_may_move(job.state, move->to))
        ok = err_set(err, ERR_CONFLICT, "The job is %s", job_state_status(job.state));
    ok = ok && set_state(store, move, err) &&
         add_job_event(store, &job, move->attempt, move->level, move->code, move->message, err) &&
         (move->to != JOB_STATE_succeeded || publish(store, &job, err)) &&
         (!move->result_file || add_result_file(store, &job, move->result_file, err));
    ok = transaction_end(store, ok, err);
    arena_deinit(&arena);
    return ok;
}

static bool set_wanted(struct store *store, const char *id, enum job_want want, struct err *err)
{
    struct query query = query_open(store, "UPDATE jobs SET wanted=? WHERE id=?");

    query_text(&query, job_want_name(want));
    query_text(&query, id);
    return query_run(&query, NULL, err);
}

bool store_queue_want(struct store *store, const char *id, enum job_want want, const char *code, const char *message,
                      struct err *err)
{
    struct arena arena = {0};
    struct store_job job;
    bool ok;

    queue_places_changed(store);
    if (!transaction_begin(store, err))
        return false;
    ok = store_queue_get(store, id, &arena, &job, err) && set_wanted(store, id, want, err) &&
         add_job_event(store, &job, clock_unix_ms(), "info", code, message, err);
    ok = transaction_end(store, ok, err);
    arena_deinit(&arena);
    return ok;
}

/* Row, files and model of a checkpoint, once: a resumed attempt reports it again. */
static bool commit_checkpoint(struct store *store, const struct tenant *tenant, const char *job_id,
                              const struct store_checkpoint_commit *commit, struct err *err)
{
    struct query query;
    bool found;

    if (!store_queue_has_checkpoint(store, job_id, commit->checkpoint.step, &found, err))
        return false;
    if (found)
        return true;
    for (size_t i = 0; i < commit->file_count; i++)
        if (!file_insert(store, tenant, &commit->files[i], err))
            return false;
    query = query_open(store, "INSERT INTO checkpoints(organization_id, project_id" STORE_CHECKPOINT_COLUMNS(
                                  SQL_NAME) ") VALUES (?,?" STORE_CHECKPOINT_COLUMNS(SQL_MARK) ")");
    query_tenant(&query, tenant);
    row_bind(&query, &store_checkpoint_row, &commit->checkpoint);
    return query_run(&query, NULL, err) && model_insert(store, tenant, &commit->model, err);
}

/* 0: there is none. A clock that ran ahead counts no time that has not been. */
static int64_t newest_event_ms(const struct store_advance *advance)
{
    int64_t newest = 0, now = clock_unix_ms();

    for (size_t i = 0; i < advance->event_count; i++)
        if (advance->events[i].created_ms > newest)
            newest = advance->events[i].created_ms;
    return newest < now ? newest : now;
}

static bool set_progress(struct store *store, const struct store_advance *advance, struct err *err)
{
    struct query query =
        query_open(store, "UPDATE jobs SET events_offset=?4, trained_tokens=MAX(trained_tokens, ?5), "
                          "trained_steps=MAX(trained_steps, ?6), total_steps=MAX(total_steps, ?7), estimated_finish_ms="
                          "CASE WHEN finished_ms=0 AND ?8<>0 THEN ?8 ELSE estimated_finish_ms END, "
                          "device_ms=device_ms + CASE device_until_ms WHEN 0 THEN 0 ELSE MAX(0, ?9 - device_until_ms) "
                          "END, device_until_ms=CASE device_until_ms WHEN 0 THEN 0 ELSE MAX(device_until_ms, ?9) END, "
                          "disk_bytes=MAX(disk_bytes, ?10) "
                          "WHERE id=?1 AND attempt=?2 AND events_offset=?3 AND state IN ('running', 'cancelling')");
    int changed;

    query_text(&query, advance->id);
    query_integer(&query, advance->attempt);
    query_integer(&query, advance->from_offset);
    query_integer(&query, advance->to_offset);
    query_integer(&query, advance->trained_tokens);
    query_integer(&query, advance->trained_steps);
    query_integer(&query, advance->total_steps);
    query_integer(&query, advance->estimated_finish_ms);
    query_integer(&query, newest_event_ms(advance));
    query_integer(&query, advance->disk_bytes);
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || stale(advance->id, advance->attempt, err);
}

static bool store_what_was_read(struct store *store, const struct store_advance *advance, struct arena *arena,
                                struct err *err)
{
    struct store_job job;
    struct tenant tenant;

    if (!set_progress(store, advance, err) || !store_queue_get(store, advance->id, arena, &job, err))
        return false;
    tenant = tenant_of(&job);
    for (size_t i = 0; i < advance->event_count; i++)
        if (!event_insert(store, &tenant, advance->id, &advance->events[i], err))
            return false;
    for (size_t i = 0; i < advance->checkpoint_count; i++)
        if (!commit_checkpoint(store, &tenant, advance->id, &advance->checkpoints[i], err))
            return false;
    return advance->checkpoint_count == 0 || checkpoints_retire(store, advance->id, err);
}

bool store_queue_advance(struct store *store, const struct store_advance *advance, struct err *err)
{
    struct arena arena = {0};
    bool ok;

    /* The run directory has it too. What a checkpoint makes visible is for good. */
    if (!(advance->checkpoint_count ? transaction_begin(store, err) : transaction_begin_relaxed(store, err)))
        return false;
    ok = transaction_end(store, store_what_was_read(store, advance, &arena, err), err);
    arena_deinit(&arena);
    return ok;
}

bool store_queue_has_checkpoint(struct store *store, const char *id, int64_t step, bool *found, struct err *err)
{
    struct query query = query_open(store, "SELECT 1 FROM checkpoints WHERE job_id=? AND step=?");

    query_text(&query, id);
    query_integer(&query, step);
    *found = query_step(&query);
    return query_close(&query, err);
}

bool store_queue_checkpoint_paths(struct store *store, const char *id, struct arena *arena, struct store_texts *paths,
                                  struct err *err)
{
    struct query query = query_open(store, "SELECT path FROM checkpoints WHERE job_id=?");

    query_text(&query, id);
    return texts_get(&query, arena, paths, err);
}

bool store_queue_to_clean(struct store *store, struct arena *arena, struct store_texts *ids, struct err *err)
{
    struct query query = query_open(store, "SELECT id FROM jobs WHERE has_leftovers = 1 AND state IN ('succeeded', "
                                           "'failed', 'cancelled') ORDER BY number");

    return texts_get(&query, arena, ids, err);
}

bool store_queue_cleaned(struct store *store, const char *id, struct err *err)
{
    struct query query = query_open(store, "UPDATE jobs SET has_leftovers = 0 WHERE id=?");

    query_text(&query, id);
    return query_run(&query, NULL, err);
}

bool store_queue_ids(struct store *store, struct arena *arena, struct store_texts *ids, struct err *err)
{
    struct query query = query_open(store, "SELECT id FROM jobs ORDER BY id");

    return texts_get(&query, arena, ids, err);
}
