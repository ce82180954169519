#include "model/state_copy.h"
#include "os/clock.h"
#include "train/train_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Writing them takes a twentieth of a run at most. */
enum { RECOVERY_SECONDS = 120, RECOVERY_SHARE = 20 };
static const float BETA1 = 0.9f, BETA2 = 0.999f, EPSILON = 1e-8f;

static bool tell_start(struct session *s, struct err *err)
{
    struct json_writer *w = run_event_begin(&s->run, "start", "", s->progress.step);

    json_put_integer(w, "total_steps", s->total_steps);
    json_put_integer(w, "steps_per_epoch", s->feed.steps_per_epoch);
    json_put_integer(w, "train_rows", s->feed.rows.row_count);
    json_put_integer(w, "train_examples", (int64_t)s->train.summary.examples);
    json_put_integer(w, "train_tokens", (int64_t)s->train.summary.tokens);
    json_put_integer(w, "supervised_tokens", (int64_t)s->train.summary.trained_tokens);
    json_put_integer(w, "trainable_parameters", (int64_t)model_params(s->model)->trained_count);
    json_put_integer(w, "disk_bytes", (int64_t)disk_needs(s, model_plan_used(s->model)).total_bytes);
    json_write_key(w, "resumed_from_step");
    if (s->resumed_from >= 0)
        json_write_integer(w, s->resumed_from);
    else
        json_write_null(w);
    return run_event_end(&s->run, err);
}

static bool tell_warnings(struct session *s, struct err *err)
{
    struct warning_events events = {&s->run, err, true};

    warn_of_run(s, warning_event, &events);
    return events.ok;
}

struct step_numbers {
    struct model_result result;
    struct dpo_sums dpo;
    double grad_norm, rate, seconds;
    int64_t tokens, supervised, scored; /* scored: labels that the model gave a loss */
};

void session_update(struct session *s, const double *sumsq, double rate, int64_t step)
{
    struct op_adamw rule = {.sumsq = sumsq,
                            .max_norm = (float)s->config.hp.max_grad_norm,
                            .lr = (float)rate,
                            .beta1 = BETA1,
                            .beta2 = BETA2,
                            .eps = EPSILON,
                            .decay = (float)s->config.hp.weight_decay,
                            .step = step,
                            .seed = (uint64_t)s->config.seed};

    state_copy_hold(s->state_copy);
    model_update(s->model, s->range, s->range_count, &rule);
}

static bool check_finite(const struct session *s, const struct step_numbers *n, struct err *err)
{
    if (isfinite(n->result.loss) && isfinite(n->grad_norm))
        return true;
    return err_set(err, ERR_DIVERGED,
                   "step %" PRId64 ": the %s is not a finite number, so training cannot go on: lower learning_rate "
                   "(now %g), or set max_grad_norm or warmup_ratio",
                   s->progress.step + 1, isfinite(n->result.loss) ? "gradient" : "loss", s->config.hp.learning_rate);
}

/* Gradients of the whole step, micro-batch by micro-batch. */
static bool pass_step(struct session *s, const struct feed_step *step, int64_t k, struct step_numbers *n,
                      struct err *err)
{
    int64_t pairs = 0;

    for (int i = 0; i < step->micro_count; i++)
        pairs += step->micro[i].batch.doc_count / 2;
    for (int i = 0; i < step->micro_count; i++) {
        const struct micro_batch *micro = &step->micro[i];
        struct dpo_batch dpo = session_pairs(s, micro, s->reference_train, pairs, &n->dpo);
        struct model_step place = {.seed = (uint64_t)s->config.seed,
                                   .step = (uint32_t)k,
                                   .row_offset = micro->row_offset,
                                   .tokens = step->tokens};
        if (s->config.method == METHOD_DPO) {
            place.weigh = dpo_weigh;
            place.context = &dpo;
        }
        model_queue_pass(s->model, &micro->batch, true, &place, &n->result);
        if (!run_beat(&s->run, err))
            return false;
    }
    return true;
}

/* The tokens of step k, made once. */
static const struct feed_step *prepare_step(struct session *s, int64_t k)
{
    struct prepared_step *p = &s->prepared[k % 2];

    if (p->number != k + 1) {
        arena_reset(&p->arena);
        feed_step_make(&s->feed, &p->arena, k, (uint32_t)model_plan_used(s->model)->tokens, &p->step);
        p->number = k + 1;
    }
    return &p->step;
}

/* Waits for a device, whose numbers then are there. */
static void settle_step(struct session *s, struct step_numbers *n)
{
    model_finish(s->model);
    n->grad_norm = sqrt(model_sumsq_value(s->model));
    n->scored = n->result.row_count;
    if (s->config.method == METHOD_DPO)
        n->result = dpo_result(&n->dpo);
}

/* One optimizer step: progress.step counts it when it is done. A device is waited for once, with the next step's tokens
 * ready; its update leaves the weights alone where the gradient is not finite. */
static bool run_step(struct session *s, struct step_numbers *n, struct err *err)
{
    int64_t k = s->progress.step;
    double started = clock_monotonic();
    const struct feed_step *step = prepare_step(s, k);

    *n = (struct step_numbers){0};
    arena_reset(&s->step_arena);
    model_zero_grads(s->model);
    if (!pass_step(s, step, k, n, err))
        return false;
    n->rate = s->config.hp.learning_rate * schedule_factor(s->config.schedule, k, s->warmup_steps, s->total_steps);
    session_update(s, model_queue_grad_sumsq(s->model), n->rate, k + 1);
    if (k + 1 < s->total_steps)
        prepare_step(s, k + 1);
    if (!recovery_go_on(s, err))
        return false;
    settle_step(s, n);
    if (!check_finite(s, n, err))
        return false;
    n->tokens = step->tokens;
    n->supervised = step->supervised;
    n->seconds = clock_monotonic() - started;
    return true;
}

static void count_step(struct session *s, const struct step_numbers *n)
{
    struct progress *p = &s->progress;

    if (p->step == 0)
        p->first_loss = n->result.loss;
    p->last_loss = n->result.loss;
    p->step++;
    p->trained_tokens += n->tokens;
    p->supervised_tokens += n->scored;
    p->window_tokens += n->result.row_count;
    p->window_hits += n->result.hit_count;
    p->window_nll += n->result.nll_sum;
    p->window_pairs += n->dpo.pairs;
    s->steps_here++;
}

static int64_t epoch_of(const struct session *s)
{
    return (s->progress.step + s->feed.steps_per_epoch - 1) / s->feed.steps_per_epoch;
}

/* Each trained tensor's share of grad_norm, under its name in the files. */
static void put_gradient_norms(struct session *s, struct json_writer *w)
{
    const struct params *params = model_params(s->model);

    json_write_key(w, "gradient_norms");
    json_write_begin_object(w);
    for (int i = 0; i < params->count; i++) {
        if (params->param[i].is_trained)
            json_put_number(w, params->param[i].name, sqrt(model_param_grad_sumsq(s->model, i)));
    }
    json_write_end_object(w);
}

/* Means over the pairs, in an event and among the board's figures. */
static void put_rewards(struct session *s, struct json_writer *w, const char *prefix, const char *board_prefix,
                        const struct dpo_sums *sums)
{
    struct dpo_mean means[DPO_MEANS];

    if (sums->pairs == 0)
        return;
    dpo_means(sums, means);
    for (int i = 0; i < DPO_MEANS; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s%s", prefix, means[i].name);
        json_put_number(w, key, means[i].value);
        snprintf(key, sizeof key, "%s%s", board_prefix, means[i].trl_name);
        board_add(s, key, means[i].value);
    }
}

/* The same figures as in the step's event, under the names that the Hugging Face trainers log. */
static void show_step(struct session *s, const struct step_numbers *n)
{
    board_add(s, "train/loss", n->result.loss);
    board_add(s, "train/mean_token_accuracy", (double)n->result.hit_count / (double)n->result.row_count);
    board_add(s, "train/learning_rate", n->rate);
    board_add(s, "train/grad_norm", n->grad_norm);
    board_add(s, "train/epoch", (double)s->progress.step / (double)s->feed.steps_per_epoch);
    board_add(s, "train/num_tokens", (double)s->progress.trained_tokens);
    board_add(s, "train/tokens_per_second", (double)n->tokens / fmax(n->seconds, 1e-9));
}

static bool tell_step(struct session *s, const struct step_numbers *n, struct err *err)
{
    double left =
        (double)(s->total_steps - s->progress.step) * (clock_monotonic() - s->started_at) / (double)s->steps_here;
    struct train_progress_line line = {s->progress.step, s->total_steps, n->result.loss,
                                       (double)n->tokens / fmax(n->seconds, 1e-9), left};
    struct json_writer *w = run_event_begin(&s->run, "step", "", s->progress.step);

    json_put_integer(w, "epoch", epoch_of(s));
    json_put_number(w, "loss", n->result.loss);
    json_put_number(w, "token_accuracy", (double)n->result.hit_count / (double)n->result.row_count);
    put_rewards(s, w, "", "train/", &n->dpo);
    json_put_number(w, "learning_rate", n->rate);
    json_put_number(w, "grad_norm", n->grad_norm);
    if (s->config.has_gradient_norms)
        put_gradient_norms(s, w);
    json_put_integer(w, "tokens", n->tokens);
    json_put_integer(w, "supervised_tokens", n->supervised);
    json_put_integer(w, "trained_tokens", s->progress.trained_tokens);
    json_put_number(w, "tokens_per_s", line.tokens_per_s);
    json_put_number(w, "seconds_left", left);
    if (s->options->on_progress)
        s->options->on_progress(s->options->context, &line);
    show_step(s, n);
    return run_event_end(&s->run, err) && board_write(s, err);
}

static void put_result(struct json_writer *w, const char *loss_key, const char *accuracy_key,
                       const struct eval_result *result)
{
    json_write_key(w, loss_key);
    result->has_value ? json_write_number(w, result->loss) : json_write_null(w);
    json_write_key(w, accuracy_key);
    result->has_value ? json_write_number(w, result->accuracy) : json_write_null(w);
}

static void show_result(struct session *s, const char *loss_tag, const char *accuracy_tag,
                        const struct eval_result *result)
{
    if (!result->has_value)
        return;
    board_add(s, loss_tag, result->loss);
    board_add(s, accuracy_tag, result->accuracy);
}

static bool tell_valid(struct session *s, const struct eval_result *result, struct err *err)
{
    struct json_writer *w;

    if (!result->has_value)
        return true;
    w = run_event_begin(&s->run, "valid", "", s->progress.step);
    put_result(w, "valid_loss", "valid_mean_token_accuracy", result);
    put_rewards(s, w, "valid_", "eval/", &result->dpo);
    show_result(s, "eval/loss", "eval/mean_token_accuracy", result);
    return run_event_end(&s->run, err) && board_write(s, err);
}

static bool write_checkpoint(struct session *s, struct arena *arena, const char *path, struct checkpoint_files *files,
                             struct err *err)
{
    struct folder_label label = {s->config.id, model_lora(s->model)->rank > 0 ? "lora" : "full", s->run.attempt,
                                 s->progress.step};
    const char *temporary;

    if (folder_begin(arena, path, checkpoint_bytes(s->model), &temporary, err) &&
        checkpoint_write(s->model, temporary, s->config.model_id, arena, files, err) &&
        folder_commit(temporary, path, &label, files, err))
        return true;
    folder_abort(temporary);
    return false;
}

static bool tell_wait(struct session *s, const struct err *why, struct err *err)
{
    return run_message(&s->run, "warn", "waiting_for_disk", s->progress.step, err,
                       "The checkpoint of step %" PRId64 " waits for room: %s", s->progress.step, why->text);
}

/* Waits while the disk has no room; what else is wanted meanwhile ends the wait, and the attempt. */
static bool write_when_there_is_room(struct session *s, struct arena *arena, const char *path,
                                     struct checkpoint_files *files, struct err *err)
{
    struct err problem = {0};
    int64_t since_ms = 0;

    while (!write_checkpoint(s, arena, path, files, &problem)) {
        if (run_wanted(&s->run) != RUN_GO_ON)
            return err_set(err, ERR_CANCELLED, "the checkpoint was waiting for room");
        if (since_ms == 0 && problem.code == ERR_NO_SPACE && !tell_wait(s, &problem, err))
            return false;
        if (!run_wait_for_room(&s->run, &problem, &since_ms))
            return err_set(err, problem.code, "checkpoint of step %" PRId64 ": %s", s->progress.step, problem.text);
    }
    return true;
}

static bool tell_checkpoint(struct session *s, const char *path, const struct checkpoint_files *files,
                            const struct eval_result *valid, const struct eval_result *full, struct err *err)
{
    const struct progress *p = &s->progress;
    int64_t losses = p->window_pairs ? p->window_pairs : p->window_tokens;
    struct eval_result train = {.has_value = p->window_tokens > 0,
                                .loss = p->window_nll / fmax((double)losses, 1),
                                .accuracy = (double)p->window_hits / fmax((double)p->window_tokens, 1)};
    struct json_writer *w = run_event_begin(&s->run, "checkpoint", "", p->step);

    json_put_integer(w, "epoch", epoch_of(s));
    json_put_text(w, "path", path);
    put_result(w, "train_loss", "train_mean_token_accuracy", &train);
    put_result(w, "valid_loss", "valid_mean_token_accuracy", valid);
    put_result(w, "full_valid_loss", "full_valid_mean_token_accuracy", full);
    folder_put_files(w, files);
    json_put_bool(w, "is_final", p->step == s->total_steps);
    show_result(s, "eval/full_loss", "eval/full_mean_token_accuracy", full);
    return run_event_end(&s->run, err) && board_write(s, err);
}

static bool prune(struct session *s, struct err *err)
{
    return !s->options->owns_checkpoints || s->config.keep_checkpoints == 0 ||
           checkpoints_prune(s->options->dir, s->config.keep_checkpoints, err);
}

static bool checkpoint(struct session *s, const struct eval_result *valid, struct err *err)
{
    struct arena arena = {0};
    const char *name =
        arena_printf(&s->arena, "attempts/%04" PRId64 "/checkpoints/step-%08" PRId64, s->run.attempt, s->progress.step);
    struct checkpoint_files files = {0};
    struct eval_result full;
    bool ok = eval_full(s, &full, err) &&
              write_when_there_is_room(s, &arena, path_join(&arena, s->options->dir, name), &files, err) &&
              tell_checkpoint(s, name, &files, valid, &full, err) && prune(s, err) && run_beat(&s->run, err);

    s->last_checkpoint = name;
    s->progress.window_tokens = s->progress.window_hits = s->progress.window_pairs = 0;
    s->progress.window_nll = 0;
    arena_deinit(&arena);
    return ok;
}

static bool is_due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

/* What follows a step, in the order in which a resumed attempt would do it again: events first, the recovery point that
 * stands for them last. */
static bool after_step(struct session *s, struct err *err)
{
    int64_t step = s->progress.step;
    bool has_checkpoint = is_due(step, s->feed.steps_per_epoch) || is_due(step, s->config.checkpoint_steps);
    struct eval_result valid = {0};

    if (has_checkpoint || is_due(step, s->eval_every)) {
        if (!eval_sample(s, &valid, err) || !tell_valid(s, &valid, err))
            return false;
    }
    if (has_checkpoint && !checkpoint(s, &valid, err))
        return false;
    if (step == s->total_steps)
        return true;
    if (s->config.recovery_steps
            ? is_due(step, s->config.recovery_steps)
            : clock_monotonic() - s->last_recovery_at >= fmax(RECOVERY_SECONDS, RECOVERY_SHARE * s->recovery_seconds))
        return recovery_begin(s, err);
    return true;
}

/* Steps until the end or until something else is wanted. */
static bool run_steps(struct session *s, enum run_wanted *wanted, struct err *err)
{
    struct step_numbers numbers;

    s->started_at = s->last_recovery_at = clock_monotonic();
    while (s->progress.step < s->total_steps) {
        *wanted = run_wanted(&s->run);
        if (*wanted != RUN_GO_ON)
            return *wanted != RUN_PAUSE || s->steps_here == 0 || recovery_write(s, err);
        if (!run_step(s, &numbers, err))
            return false;
        count_step(s, &numbers);
        if (!tell_step(s, &numbers, err) || !after_step(s, err))
            return false;
    }
    return true;
}

/* A model that is ready for its next step. */
static bool open_session(struct session *s, struct err *err)
{
    return recovery_clean(s, err) && session_prepare_data(s, s->options->dir, err) && session_open_model(s, err) &&
           (s->config.method != METHOD_DPO || reference_open(s, err)) && recovery_resume(s, err);
}

static bool run_session(struct session *s, enum run_wanted *wanted, struct err *err)
{
    *wanted = RUN_GO_ON;
    return open_session(s, err) && tell_start(s, err) && board_open(s, err) &&
           (s->resumed_from >= 0 || tell_warnings(s, err)) && run_steps(s, wanted, err) && board_sync(s, err) &&
           (*wanted != RUN_GO_ON || receipt_write(s, err));
}

static enum run_status status_of(struct session *s, bool ok, enum run_wanted wanted, const struct err *err)
{
    if (!ok && err->code == ERR_CANCELLED) { /* before the first step: control says which */
        wanted = run_wanted(&s->run);
        ok = true;
    }
    if (!ok)
        return RUN_FAILED;
    return wanted == RUN_GO_ON ? RUN_SUCCEEDED : wanted == RUN_PAUSE ? RUN_PAUSED : RUN_CANCELLED;
}

static enum run_status finish(struct session *s, enum run_status status, struct err *err)
{
    struct err writing = {0};

    if (run_finish(&s->run, status, s->progress.step, err, s->param, &writing))
        return status;
    if (status != RUN_FAILED)
        *err = writing;
    return RUN_FAILED;
}

enum run_status train_run(const struct train_options *options, struct arena *arena, const char **last_checkpoint,
                          struct err *err)
{
    struct session s = {.options = options, .resumed_from = -1, .recovery_step = -1};
    enum run_status status = RUN_FAILED;
    enum run_wanted wanted = RUN_GO_ON;
    bool ok;

    if (!run_open(&s.run, options->dir, options->attempt, err))
        goto out;
    s.run.on_message = options->on_message;
    s.run.context = options->context;
    ok = session_read(&s, options->dir, options->device, err) && run_session(&s, &wanted, err);
    status = finish(&s, status_of(&s, ok, wanted, err), err);
    if (last_checkpoint)
        *last_checkpoint = s.last_checkpoint ? str_copy(arena, str_of(s.last_checkpoint)) : NULL;
out:
    session_close(&s);
    return status;
}

bool train_prepare(const char *dir, struct err *err)
{
    struct session s = {0};
    bool ok = session_read(&s, dir, "cpu", err) && session_prepare_data(&s, dir, err);

    session_close(&s);
    return ok;
}
