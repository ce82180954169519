#include "cli/cached.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/pull.h"
#include "cli/remote.h"
#include "model/merge.h"
#include "model/quantize.h"

#include <stdio.h>
#include <string.h>

struct models_options {
    const char *url, *out, *dtype;
    int64_t threads;
    struct pull_options pull;
    struct cached_options cached; /* whose cache is that of pull */
};

static bool list(const struct models_options *o, struct err *err)
{
    struct remote remote;
    const struct json *models;

    remote_open(&remote, o->url);
    models = remote_get(&remote, "/v1/models", err);
    for
        json_each (model, json_get(models, "data"))
            printf("%s\n", remote_text(&remote, model, "id"));
    remote_close(&remote);
    return models != NULL;
}

static bool merge(const struct models_options *o, const char *base, const char *adapter, struct err *err)
{
    struct pool *pool;
    bool ok;

    if (!base || !adapter || !o->out)
        return err_set(err, ERR_INPUT, "merge needs the base's folder, the adapter's folder and --out");
    pool = pool_new((int)o->threads);
    ok = merge_write(base, adapter, o->out, pool, err);
    pool_free(pool);
    if (ok)
        printf("%s\n", o->out);
    return ok;
}

static bool quantize(const struct models_options *o, const char *model, struct err *err)
{
    bool is_f32 = strcmp(o->dtype, "float32") == 0;
    struct pool *pool;
    bool ok;

    if (!model || !o->out)
        return err_set(err, ERR_INPUT, "quantize needs the model's folder and --out");
    if (!is_f32 && strcmp(o->dtype, "bfloat16") != 0)
        return err_set(err, ERR_INPUT, "--dtype takes float32 or bfloat16, not '%s'", o->dtype);
    pool = pool_new((int)o->threads);
    ok = quantize_write(model, o->out, is_f32 ? DTYPE_F32 : DTYPE_BF16, pool, err);
    pool_free(pool);
    if (ok)
        printf("%s\n", o->out);
    return ok;
}

static bool act(const struct models_options *o, const char *const *words, struct err *err)
{
    if (strcmp(words[0], "list") == 0)
        return list(o, err);
    if (strcmp(words[0], "merge") == 0)
        return merge(o, words[1], words[2], err);
    if (strcmp(words[0], "quantize") == 0)
        return quantize(o, words[1], err);
    if (strcmp(words[0], "pull") == 0)
        return pull_model(&o->pull, words[1], err);
    if (strcmp(words[0], "cached") == 0)
        return cached_list(&o->cached, err);
    if (strcmp(words[0], "evict") == 0)
        return cached_evict(&o->cached, words[1], err);
    return err_set(err, ERR_INPUT, "unknown action '%s': list, pull, cached, evict, merge or quantize", words[0]);
}

int cli_models(int argc, char **argv)
{
    struct models_options o = {.dtype = "bfloat16"};
    const char *words[3] = {0};
    const struct option option[] = {
        {"url", OPTION_TEXT, &o.url, "URL", "list: server (default: ATTUNE_BASE_URL or http://127.0.0.1:8080)", NULL},
        {"revision", OPTION_TEXT, &o.pull.revision, "NAME", "pull: branch, tag or commit (main)", NULL},
        {"token-file", OPTION_TEXT, &o.pull.token_file, "FILE",
         "pull: token of the Hub (default: HF_TOKEN, or where HF_TOKEN_PATH or HF_HOME have it)", NULL},
        {"cache", OPTION_TEXT, &o.pull.cache, "DIR",
         "pull, cached, evict: the cache (default: as HF_HUB_CACHE and HF_HOME say)", NULL},
        {"offline", OPTION_FLAG, &o.pull.is_offline, NULL,
         "pull: what is in the cache, without a request; HF_HUB_OFFLINE=1 too", NULL},
        {"transfers", OPTION_INT, &o.pull.transfers, "N", "pull: files at once (4)", NULL},
        {"data", OPTION_TEXT, &o.cached.data, "DIR",
         "cached, evict: data folder of the server, to see what is still needed", NULL},
        {"project", OPTION_TEXT, &o.cached.project, "ID", "cached, evict: what a token of this project has opened",
         NULL},
        {"force", OPTION_FLAG, &o.cached.is_forced, NULL, "evict: what is still needed, too", NULL},
        {"out", OPTION_TEXT, &o.out, "DIR", "merge, quantize: the folder to write, which must not exist", NULL},
        {"dtype", OPTION_TEXT, &o.dtype, "TYPE",
         "quantize: what transformers shall compute in: bfloat16 or float32 (bfloat16)", NULL},
        {"threads", OPTION_INT, &o.threads, "N", "merge, quantize: processor threads (all)", NULL}};
    const struct options options = {
        .usage = "attune models list\n"
                 "       attune models pull ORG/NAME\n"
                 "       attune models cached [--data DIR]\n"
                 "       attune models evict ORG/NAME --data DIR\n"
                 "       attune models merge BASE ADAPTER --out DIR\n"
                 "       attune models quantize MODEL --out DIR",
        .about =
            "Base models and results of a running server; or, without one: pull fetches a model from the Hugging\n"
            "Face Hub (HF_ENDPOINT) into its cache, where servers and other tools find it; cached and evict list\n"
            "and remove what lies there; merge works the PEFT adapter in the folder ADAPTER into the model in the\n"
            "folder BASE and writes a model that needs no adapter; quantize writes the model in the folder MODEL\n"
            "with linear layers of four bits (NF4), as bitsandbytes has it.",
        .list = option,
        .count = sizeof option / sizeof *option,
        .positional_min = 1,
        .positional_max = 3};
    struct err err = {0};

    if (!options_parse(&options, argc, argv, words, NULL, &err)) {
        fprintf(stderr, "attune models: %s\n", err.text);
        return 2;
    }
    o.cached.cache = o.pull.cache;
    if (act(&o, words, &err))
        return 0;
    fprintf(stderr, "attune models: %s\n", err.text);
    return 1;
}
