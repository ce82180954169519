#include "api/prepare.h"
#include "api/api_int.h"
#include "os/file.h"
#include "os/process.h"
#include "os/socket.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum {
    AT_ONCE_MAX = 2,
    WORDS_MAX = 16,
    ANSWER_BYTES_MAX = 64 << 20,
    MEMORY_BYTES = 512 << 20,
    TIME_MS = 10 * 60 * 1000,
    KILL_WAIT_MS = 1000
};

/* Asked, until the process has ended and is reaped: so long it counts. */
struct preparer {
    struct preparers *all;
    struct prepare_question question; /* without callbacks once it is answered or withdrawn */
    char id[32];                      /* of its reservation */
    struct process process;
    int fd; /* our end of its standard input and output */
    struct http_watch *io_watch, *end_watch;
    struct http_timer *timer;
    struct strbuf in, out;
    struct preparer *next;
};

struct preparers {
    const struct api_config *config;
    char program[4096];
    struct preparer *list;
    int count;
    uint64_t next_id;
};

/* A process that was killed may have left tokens that it had not finished. */
static void remove_unfinished(const struct preparer *p)
{
    struct arena arena = {0};
    const char *cache = path_join(&arena, p->all->config->data_dir, "cache");
    const char *suffix = arena_printf(&arena, ".tmp.%lld", (long long)p->process.identity.pid);
    char **names;
    size_t count;

    if (dir_exists(cache) && dir_list(&arena, cache, &names, &count, NULL))
        for (size_t i = 0; i < count; i++)
            if (str_ends(str_of(names[i]), str_of(suffix)))
                dir_remove(path_join(&arena, cache, names[i]), NULL);
    arena_deinit(&arena);
}

static void free_preparer(struct preparer *p)
{
    struct job_ledger *ledger = job_manager_ledger(p->all->config->jobs);

    for (struct preparer **at = &p->all->list; *at; at = &(*at)->next) {
        if (*at == p) {
            *at = p->next;
            p->all->count--;
            break;
        }
    }
    http_watch_remove(p->io_watch);
    http_watch_remove(p->end_watch);
    http_timer_remove(p->timer);
    fd_close(&p->fd);
    process_close(&p->process);
    ledger_release(ledger, LEDGER_CHAT, p->id);
    strbuf_deinit(&p->in);
    strbuf_deinit(&p->out);
    free(p);
}

static void on_ended(void *context, uint32_t events)
{
    struct preparer *p = context;
    struct process_end end;

    if (!process_has_ended(&p->process, &end))
        return;
    if (end.signal || end.exit_status)
        remove_unfinished(p);
    free_preparer(p);
}

/* Nothing more is said to it or heard from it; on_ended does the rest. */
static void dismiss(struct preparer *p)
{
    p->question.on_answer = NULL;
    p->question.on_error = NULL;
    http_watch_remove(p->io_watch);
    p->io_watch = NULL;
    http_timer_remove(p->timer);
    p->timer = NULL;
    fd_close(&p->fd);
    process_kill_group(&p->process, NULL);
}

static void fail(struct preparer *p, const struct err *err, const char *param)
{
    struct prepare_question question = p->question;

    dismiss(p);
    if (question.on_error)
        question.on_error(question.context, err, param);
}

static void on_late(void *context)
{
    struct err err = {ERR_TIMEOUT, "The data could not be read in time. A job has all the time that it needs."};

    fail(context, &err, NULL);
}

/* A job needs the memory. */
static void on_evict(void *context, const char *id)
{
    struct preparers *all = context;
    struct err err = {ERR_TIMEOUT, "A fine-tuning job needed the memory; try again later."};

    for (struct preparer *p = all->list; p; p = p->next) {
        if (strcmp(p->id, id) == 0) {
            fail(p, &err, NULL);
            return;
        }
    }
}

static void tell_error(struct preparer *p, struct str answer)
{
    struct arena arena = {0};
    const struct json *error = json_get(json_parse(&arena, answer, NULL, NULL), "error"),
                      *param = json_get(error, "param");
    struct err err = {0};
    enum err_code code = ERR_INTERNAL;

    err_code_find(str_copy(&arena, json_string_or(json_get(error, "code"), STR(""))), &code);
    err_set(&err, code, "%.*s", STR_ARG(json_string_or(json_get(error, "message"), STR("unknown reason"))));
    fail(p, &err, json_is_null(param) ? NULL : str_copy(&arena, json_string_or(param, STR(""))));
    arena_deinit(&arena);
}

/* The process has closed its output. */
static void take_answer(struct preparer *p)
{
    struct err err = {ERR_INTERNAL, "The process that reads data ended unexpectedly; try again."};
    struct prepare_question question = p->question;
    struct strbuf answer = p->in;

    if (p->in.len > ANSWER_BYTES_MAX || !str_ends(strbuf_view(&p->in), STR("}\n"))) {
        fail(p, &err, NULL);
    } else if (str_starts(strbuf_view(&p->in), STR("{\"error\":"))) {
        tell_error(p, strbuf_view(&p->in));
    } else {
        p->in = (struct strbuf){0};
        dismiss(p);
        question.on_answer(question.context, strbuf_view(&answer));
        strbuf_deinit(&answer);
    }
}

/* Writes what is left of the input; behind its end the process reads an end. */
static void send_input(struct preparer *p)
{
    long sent;

    while (p->out.len > 0 && (sent = fd_write_some(p->fd, p->out.at, p->out.len)) > 0)
        strbuf_drop(&p->out, (size_t)sent);
    if (p->out.len == 0)
        socket_end_writing(p->fd);
    http_watch_set(p->io_watch, p->out.len > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void on_ready(void *context, uint32_t events)
{
    struct preparer *p = context;
    char bytes[65536];
    long got = -1;

    while (p->in.len <= ANSWER_BYTES_MAX && (got = fd_read_some(p->fd, bytes, sizeof bytes)) > 0)
        strbuf_add(&p->in, bytes, (size_t)got);
    if (got == -1 && p->in.len <= ANSWER_BYTES_MAX)
        send_input(p);
    else
        take_answer(p);
}

/* --- starting --- */

static bool reserve(struct preparer *p, struct err *err)
{
    struct ledger_claim claim = {
        .owner = LEDGER_CHAT, .id = p->id, .bytes = MEMORY_BYTES, .evict = on_evict, .context = p->all};

    if (ledger_reserve(job_manager_ledger(p->all->config->jobs), &claim, err))
        return true;
    if (err->code == ERR_CONFLICT)
        err_set(err, ERR_TIMEOUT, "Running jobs use the memory that this needs; try again later.");
    return false;
}

static bool spawn(struct preparer *p, const struct prepare_question *question, struct err *err)
{
    const char *argv[WORDS_MAX + 5] = {p->all->program, "prepare"};
    struct arena arena = {0};
    int ends[2], count = 2;
    bool ok;

    for (int i = 0; question->words[i]; i++) {
        ASSERT(i < WORDS_MAX);
        argv[count++] = question->words[i];
    }
    argv[count++] = "--memory-bytes";
    argv[count] = arena_printf(&arena, "%d", MEMORY_BYTES);
    ok = socket_pair(ends, err);
    if (ok) {
        p->fd = ends[0];
        ok = process_spawn(&p->process,
                           &(struct process_spawn){.argv = argv,
                                                   .output_path = "/dev/null",
                                                   .nice = p->all->config->nice,
                                                   .io_fd = ends[1]},
                           err) &&
             process_go(&p->process, err) && fd_set_nonblocking(p->fd, err);
        fd_close(&ends[1]);
    }
    arena_deinit(&arena);
    return ok;
}

static bool watch(struct preparer *p, struct err *err)
{
    struct http_loop *loop = p->all->config->loop;

    p->io_watch = http_loop_add_fd(loop, p->fd, EPOLLIN | EPOLLOUT, on_ready, p, err);
    p->end_watch = p->io_watch ? http_loop_add_fd(loop, p->process.pidfd, EPOLLIN, on_ended, p, err) : NULL;
    p->timer = http_loop_add_timer(loop, http_loop_now_ms(loop) + TIME_MS, on_late, p);
    return p->end_watch != NULL;
}

/* Of one that nothing watches. */
static void kill_and_free(struct preparer *p)
{
    struct process_end end;

    process_kill_group(&p->process, NULL);
    if (p->process.pidfd >= 0)
        fd_wait_readable(p->process.pidfd, KILL_WAIT_MS);
    process_has_ended(&p->process, &end);
    free_preparer(p);
}

struct preparer *preparer_ask(struct preparers *all, const struct prepare_question *question, struct err *err)
{
    struct preparer *p;

    if (all->count >= AT_ONCE_MAX) {
        err_set(err, ERR_TIMEOUT, "%d such requests are being answered already; try again in a moment.", AT_ONCE_MAX);
        return NULL;
    }
    p = mem_alloc_zero(1, sizeof *p);
    *p = (struct preparer){
        .all = all, .question = *question, .process = PROCESS_NONE, .fd = -1, .next = all->list};
    snprintf(p->id, sizeof p->id, "prepare-%llu", (unsigned long long)++all->next_id);
    strbuf_add_str(&p->out, question->input);
    all->list = p;
    all->count++;
    if (reserve(p, err) && spawn(p, question, err) && watch(p, err))
        return p;
    kill_and_free(p);
    return NULL;
}

void preparer_withdraw(struct preparer *p)
{
    dismiss(p);
}

struct preparers *preparers_new(const struct api_config *config, struct err *err)
{
    struct preparers *all = mem_alloc_zero(1, sizeof *all);

    all->config = config;
    if (config->program && strlen(config->program) < sizeof all->program)
        memcpy(all->program, config->program, strlen(config->program) + 1);
    else if (!process_self_path(all->program, sizeof all->program, err)) {
        free(all);
        return NULL;
    }
    return all;
}

void preparers_free(struct preparers *all)
{
    struct err err = {ERR_TIMEOUT, "The server is stopping."};

    if (!all)
        return;
    while (all->list) {
        fail(all->list, &err, NULL);
        kill_and_free(all->list);
    }
    free(all);
}
