#include "job/devices.h"

#include "os/file.h"
#include "os/process.h"
#include "os/socket.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_MS = 10000, ANSWER_BYTES_MAX = 1 << 20 };

bool device_name_is_text(struct str name)
{
    int64_t index;

    if (str_is(name, "cpu") || str_is(name, "cuda"))
        return true;
    return str_starts(name, STR("cuda:")) && name.len > 5 && name.len < DEVICE_NAME_BYTES && name.at[5] >= '0' &&
           name.at[5] <= '9' && str_to_i64(str_slice(name, 5, name.len), &index) && index < DEVICES_MAX;
}

/* --- the child's answer --- */

static void take_text(char *to, size_t bytes, const struct json *from, const char *member)
{
    snprintf(to, bytes, "%.*s", STR_ARG(json_string_or(json_get(from, member), STR(""))));
}

static void take_answer(struct job_devices *devices, struct str text)
{
    struct arena arena = {0};
    const struct json *answer = json_parse(&arena, text, NULL, NULL);

    take_text(devices->why_none, sizeof devices->why_none, answer, "why_no_gpu");
    take_text(devices->driver, sizeof devices->driver, answer, "driver_version");
    json_each(entry, json_get(answer, "gpus")) {
        struct job_device *gpu = &devices->gpu[devices->count];
        if (devices->count == DEVICES_MAX)
            break;
        *gpu = (struct job_device){.memory_bytes = json_integer_or(json_get(entry, "memory_bytes"), 0),
                                   .free_bytes = json_integer_or(json_get(entry, "free_memory_bytes"), 0)};
        take_text(gpu->name, sizeof gpu->name, entry, "id");
        take_text(gpu->title, sizeof gpu->title, entry, "name");
        take_text(gpu->capability, sizeof gpu->capability, entry, "compute_capability");
        devices->count++;
    }
    if (!devices->count && !devices->why_none[0])
        snprintf(devices->why_none, sizeof devices->why_none,
                 "the process that looks for GPUs ended without an answer");
    arena_deinit(&arena);
}

/* False when it took too long. */
static bool read_to_end(int fd, struct strbuf *text)
{
    char bytes[4096];
    long got = -1;

    while (text->len < ANSWER_BYTES_MAX && fd_wait_readable(fd, PROBE_MS) &&
           (got = fd_read_some(fd, bytes, sizeof bytes)) > 0)
        strbuf_add(text, bytes, (size_t)got);
    return got == 0;
}

static bool ask(const char *program, struct process *process, struct strbuf *text, struct err *err)
{
    const char *argv[] = {program, "devices", "--json", NULL};
    int ends[2];
    bool ok = socket_pair(ends, err);

    if (!ok)
        return false;
    ok = process_spawn(process, &(struct process_spawn){.argv = argv, .output_path = "/dev/null", .io_fd = ends[1]},
                       err) &&
         process_go(process, err);
    fd_close(&ends[1]);
    ok = ok && (read_to_end(ends[0], text) ||
                err_set(err, ERR_TIMEOUT, "the process that looks for GPUs did not answer in time"));
    fd_close(&ends[0]);
    return ok;
}

void devices_probe(const char *program, struct job_devices *devices)
{
    struct process process = PROCESS_NONE;
    struct process_end end;
    struct strbuf text = {0};
    struct err err = {0};

    *devices = (struct job_devices){0};
    if (ask(program, &process, &text, &err))
        take_answer(devices, strbuf_view(&text));
    else
        snprintf(devices->why_none, sizeof devices->why_none, "%.500s", err.text);
    if (process.pidfd >= 0) {
        process_kill_group(&process, NULL);
        fd_wait_readable(process.pidfd, PROBE_MS);
        process_has_ended(&process, &end);
    }
    process_close(&process);
    strbuf_deinit(&text);
}

/* --- the operator's choice --- */

struct job_device *devices_find(struct job_devices *devices, const char *name)
{
    for (int i = 0; i < devices->count; i++)
        if (strcmp(devices->gpu[i].name, name) == 0)
            return &devices->gpu[i];
    return NULL;
}

static bool choose_one(struct job_devices *devices, struct str item, bool is_wanted[DEVICES_MAX], bool *has_cpu,
                       struct err *err)
{
    bool is_found = false;

    if (!device_name_is_text(item))
        return err_set(err, ERR_INPUT, "'%.*s' is not cpu, cuda or cuda:N", STR_ARG(str_clip(item, 40)));
    if (str_is(item, "cpu")) {
        *has_cpu = true;
        return true;
    }
    for (int i = 0; i < devices->count; i++) {
        bool is_named = str_is(item, "cuda") || str_is(item, devices->gpu[i].name);
        is_wanted[i] |= is_named;
        is_found |= is_named;
    }
    return is_found || err_set(err, ERR_NOT_FOUND, "there is no %.*s%s%s", STR_ARG(item),
                               devices->why_none[0] ? ": " : "", devices->why_none);
}

bool devices_choose(struct job_devices *devices, const char *list, bool *has_cpu, struct err *err)
{
    bool is_wanted[DEVICES_MAX] = {false};
    struct str rest = str_of(list);
    int count = 0;

    *has_cpu = !list;
    if (!list)
        return true;
    while (rest.len > 0) {
        ptrdiff_t comma = str_find(rest, STR(","), 0);
        size_t end = comma < 0 ? rest.len : (size_t)comma;
        if (!choose_one(devices, str_trim(str_slice(rest, 0, end)), is_wanted, has_cpu, err))
            return false;
        rest = str_slice(rest, end < rest.len ? end + 1 : end, rest.len);
    }
    for (int i = 0; i < devices->count; i++)
        if (is_wanted[i])
            devices->gpu[count++] = devices->gpu[i];
    if (!count && devices->count)
        snprintf(devices->why_none, sizeof devices->why_none, "this server's jobs are kept from GPUs (--devices)");
    devices->count = count;
    return count || *has_cpu || err_set(err, ERR_INPUT, "the list of devices is empty");
}
