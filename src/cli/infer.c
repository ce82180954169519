#include "cli/cli.h"
#include "cli/options.h"
#include "compute/device.h"
#include "infer/worker.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>

enum { THREADS_MOST = 256 };

static bool check(const struct worker_options *worker, int64_t threads, struct err *err)
{
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {{"adapter-memory", worker->adapter_bytes}, {"prefix-memory", worker->prefix_bytes},
                 {"context-length", worker->context_length}, {"threads", threads}};

    if (!worker->model)
        return err_set(err, ERR_INPUT, "--model is required");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 0)
            return err_set(err, ERR_INPUT, "--%s takes 0 or more, not %lld", sizes[i].name, (long long)sizes[i].value);
    if (threads > THREADS_MOST)
        return err_set(err, ERR_INPUT, "--threads takes at most %d, not %lld", THREADS_MOST, (long long)threads);
    return device_name_is_valid(worker->device) || strcmp(worker->device, "ref") == 0 ||
           err_set(err, ERR_INPUT, "--device takes cpu, cuda, cuda:N or ref, not '%s'", worker->device);
}

int cli_infer(int argc, char **argv)
{
    struct worker_options worker = {.prefix_bytes = 64 << 20, .device = "cpu", .dtype = "auto"};
    int64_t threads = 0;
    const struct option list[] = {
        {"model", OPTION_TEXT, &worker.model, "DIR", "folder of the base model", NULL},
        {"adapter", OPTION_TEXT, &worker.adapter, "DIR", "PEFT adapter on it, for all requests", NULL},
        {"adapter-memory", OPTION_INT, &worker.adapter_bytes, "BYTES",
         "of adapters that requests name (default 256 MiB)", NULL},
        {"prefix-memory", OPTION_INT, &worker.prefix_bytes, "BYTES",
         "of what requests that have ended leave to those that begin alike (default 64 MiB; 0: nothing)", NULL},
        {"context-length", OPTION_INT, &worker.context_length, "N",
         "tokens of prompt and reply (default: the model's, at most 8192)", NULL},
        {"dtype", OPTION_TEXT, &worker.dtype, "TYPE", "auto, float32 or bfloat16 (default auto)", NULL},
        {"device", OPTION_TEXT, &worker.device, "NAME",
         "cpu, a GPU (cuda, cuda:1), or ref: the reference implementation (default cpu)", NULL},
        {"threads", OPTION_INT, &threads, "N", "0: one per core", NULL},
    };
    const struct options options = {
        .usage = "attune infer --model DIR [--adapter DIR]",
        .about = "Answers generation requests for one base and adapters on it: JSON Lines on standard input, answers "
                 "on standard output (docs/formats.md, \"The inference worker\"). The server starts it by itself.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    struct err err = {0};

    if (!options_parse(&options, argc, argv, NULL, NULL, &err) || !check(&worker, threads, &err)) {
        fprintf(stderr, "attune infer: %s\n", err.text);
        return 2;
    }
    worker.threads = (int)threads;
    worker.now = clock_unix();
    if (!worker_run(&worker, 0, 1, &err)) {
        fprintf(stderr, "attune infer: %s\n", err.text);
        return 1;
    }
    return 0;
}
