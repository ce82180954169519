/* A trainer that trains nothing: "fake_trainer train --run DIR --attempt N" keeps to the run directory's contract and
 * misbehaves as options in job.json say. Its state is a hash over the steps done, so that what it ends with shows
 * whether it went on from where it was. */
#include "base/hash.h"
#include "base/json.h"
#include "os/clock.h"
#include "os/file.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct trainer {
    struct arena arena;
    const char *run, *dir;
    int64_t attempt, seq;
    int events;
    const struct json *options;
    char state[65];
    int64_t step;
};

static void check(bool ok, const struct err *err)
{
    if (!ok)
        die("fake trainer: %s", err->text);
}

static int64_t option(const struct trainer *t, const char *name)
{
    return json_integer_or(json_get(t->options, name), 0);
}

static void say(struct trainer *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct trainer *t, const char *format, ...)
{
    struct strbuf line = {0};
    struct err err = {0};
    va_list args;

    strbuf_printf(&line, "{\"seq\":%lld,", (long long)++t->seq);
    va_start(args, format);
    strbuf_vprintf(&line, format, args);
    va_end(args);
    strbuf_add_text(&line, "}\n");
    check(fd_write_all(t->events, line.at, line.len, "events", &err), &err);
    strbuf_deinit(&line);
}

static void write_file(const char *path, const char *text)
{
    struct err err = {0};

    check(file_replace(path, str_of(text), &err), &err);
}

static _Noreturn void leave(struct trainer *t, const char *status, const char *error)
{
    write_file(path_join(&t->arena, t->dir, "exit.json"),
               arena_printf(&t->arena, "{\"format\":1,\"status\":\"%s\",\"error\":%s}", status, error));
    exit(0);
}

static void save(struct trainer *t)
{
    const char *recovery = path_join(&t->arena, t->dir, "recovery");
    const char *final = arena_printf(&t->arena, "%s/step-%08lld", recovery, (long long)t->step);
    const char *tmp = arena_printf(&t->arena, "%s.tmp", final);
    struct err err = {0};

    check(dir_make(tmp, &err), &err);
    write_file(path_join(&t->arena, tmp, "state"), t->state);
    write_file(path_join(&t->arena, tmp, "MANIFEST"), "{}");
    check(file_rename(tmp, final, &err), &err);
}

static void load_newest(struct trainer *t)
{
    struct err err = {0};

    strcpy(t->state, "begin");
    for (int64_t attempt = 1; attempt < t->attempt; attempt++) {
        const char *recovery = arena_printf(&t->arena, "%s/attempts/%04lld/recovery", t->run, (long long)attempt);
        char **names;
        size_t count = 0;

        if (!dir_exists(recovery) || !dir_list(&t->arena, recovery, &names, &count, &err))
            continue;
        for (size_t i = 0; i < count; i++) {
            long long step;
            struct str state;
            int end = 0;

            if (sscanf(names[i], "step-%8lld%n", &step, &end) == 1 && !names[i][end] && step > t->step &&
                file_read(&t->arena, arena_printf(&t->arena, "%s/%s/state", recovery, names[i]), 64, &state, &err)) {
                t->step = step;
                memcpy(t->state, state.at, state.len + 1);
            }
        }
    }
}

static void obey(struct trainer *t)
{
    struct str text;
    struct err err = {0};
    const struct json *control;

    if (option(t, "deaf") || !file_read(&t->arena, path_join(&t->arena, t->run, "control"), 1000, &text, &err))
        return;
    control = json_parse(&t->arena, text, NULL, &err);
    if (json_integer_or(json_get(control, "attempt"), 0) != t->attempt)
        return;
    if (json_is(json_get(control, "wanted"), "cancel"))
        leave(t, "cancelled", "null");
    if (json_is(json_get(control, "wanted"), "pause")) {
        save(t);
        leave(t, "paused", "null");
    }
}

/* Ways to go wrong at a step, in the first `times` attempts. */
static void misbehave(struct trainer *t)
{
    if (t->attempt > option(t, "times"))
        return;
    if (t->step == option(t, "kill_at")) {
        fprintf(stderr, "the last words of attempt %lld\n", (long long)t->attempt);
        kill(getpid(), SIGKILL);
    }
    if (option(t, "kill_after") && t->step >= option(t, "kill_after") * t->attempt)
        kill(getpid(), SIGKILL);
    if (t->step == option(t, "fail_at"))
        leave(t, "failed",
              "{\"code\":\"invalid_training_file\",\"message\":\"line 3 is bad\",\"param\":\"training_file\"}");
    if (t->step == option(t, "hang_at"))
        for (;;)
            pause();
    if (t->step == option(t, "babble_at"))
        check(write(t->events, "{\"kind\":\"step\"}\nnonsense\n", 25) == 25, &(struct err){0});
    if (t->step == option(t, "half_line_at")) {
        check(write(t->events, "{\"kind\":\"step\",\"step\":9", 23) == 23, &(struct err){0});
        kill(getpid(), SIGKILL);
    }
}

static void take_step(struct trainer *t, int64_t steps)
{
    uint8_t digest[32];
    const char *text = arena_printf(&t->arena, "%s %lld", t->state, (long long)++t->step);

    sha256_of(str_of(text), digest);
    hex_encode(digest, sizeof digest, t->state);
    say(t,
        "\"kind\":\"step\",\"code\":\"\",\"step\":%lld,\"time\":%lld,\"epoch\":1,\"loss\":%f,\"token_accuracy\":0.5,"
        "\"learning_rate\":1e-5,\"grad_norm\":1,\"tokens\":10,\"supervised_tokens\":5,\"trained_tokens\":%lld,"
        "\"tokens_per_s\":100,\"seconds_left\":%lld",
        (long long)t->step, (long long)clock_unix_ms(), 1.0 / (double)t->step, (long long)(10 * t->step),
        (long long)(steps - t->step));
    write_file(path_join(&t->arena, t->dir, "heartbeat"), arena_printf(&t->arena, "%020lld", (long long)t->step));
}

static void publish(struct trainer *t)
{
    const char *name =
        arena_printf(&t->arena, "attempts/%04lld/checkpoints/step-%08lld", (long long)t->attempt, (long long)t->step);
    const char *dir = path_join(&t->arena, t->run, name);
    struct err err = {0};
    char sha256[65];
    uint8_t digest[32];

    check(dir_make(dir, &err), &err);
    write_file(path_join(&t->arena, dir, "weights"), t->state);
    sha256_of(str_of(t->state), digest);
    hex_encode(digest, 32, sha256);
    write_file(path_join(&t->arena, dir, "MANIFEST"),
               arena_printf(&t->arena, "{\"files\":[{\"name\":\"weights\",\"bytes\":%zu,\"sha256\":\"%s\"}]}",
                            strlen(t->state), sha256));
    say(t,
        "\"kind\":\"checkpoint\",\"code\":\"\",\"step\":%lld,\"time\":1,\"epoch\":1,\"path\":\"%s\",\"train_loss\":0.5,"
        "\"train_mean_token_accuracy\":0.5,\"valid_loss\":null,\"files\":[{\"name\":\"weights\",\"bytes\":%zu,"
        "\"sha256\":\"%s\"}],\"is_final\":true",
        (long long)t->step, name, strlen(t->state), sha256);
}

int main(int argc, char **argv)
{
    struct trainer t = {.run = argv[3], .attempt = strtoll(argv[5], NULL, 10)};
    struct err err = {0};
    struct str text;
    int64_t steps;

    t.dir = arena_printf(&t.arena, "%s/attempts/%04lld", t.run, (long long)t.attempt);
    check(file_read(&t.arena, path_join(&t.arena, t.run, "job.json"), 1 << 20, &text, &err), &err);
    t.options = json_get(json_parse(&t.arena, text, NULL, &err), "options");
    t.events = file_open_append(path_join(&t.arena, t.dir, "events.jsonl"), &err);
    check(t.events >= 0, &err);
    steps = option(&t, "steps");
    load_newest(&t);
    say(&t,
        "\"kind\":\"start\",\"code\":\"\",\"step\":0,\"time\":1,\"total_steps\":%lld,\"train_examples\":4,\"train_"
        "tokens\":40",
        (long long)steps);
    while (t.step < steps) {
        take_step(&t, steps);
        if (option(&t, "recovery_every") && t.step % option(&t, "recovery_every") == 0)
            save(&t);
        misbehave(&t);
        obey(&t);
        clock_sleep_ms(option(&t, "step_ms"));
    }
    if (!option(&t, "nothing"))
        publish(&t);
    leave(&t, "succeeded", "null");
}
