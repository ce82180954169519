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

static bool list(void *context, const char *const *words, struct err *err)
{
    const struct models_options *o = context;
    struct remote remote = {.url = o->url};
    const struct json *models = remote_get(&remote, "/v1/models", err);

    json_each(model, json_get(models, "data"))
        printf("%s\n", remote_text(&remote, model, "id"));
    remote_close(&remote);
    return models != NULL;
}

static bool merge(void *context, const char *const *words, struct err *err)
{
    const struct models_options *o = context;
    struct pool *pool;
    bool ok;

    pool = pool_new((int)o->threads);
    ok = merge_write(words[0], words[1], o->out, pool, err);
    pool_free(pool);
    if (ok)
        printf("%s\n", o->out);
    return ok;
}

static bool quantize(void *context, const char *const *words, struct err *err)
{
    const struct models_options *o = context;
    bool is_f32 = strcmp(o->dtype, "float32") == 0;
    struct pool *pool;
    bool ok;

    pool = pool_new((int)o->threads);
    ok = quantize_write(words[0], o->out, is_f32 ? DTYPE_F32 : DTYPE_BF16, pool, err);
    pool_free(pool);
    if (ok)
        printf("%s\n", o->out);
    return ok;
}

static bool pull(void *context, const char *const *words, struct err *err)
{
    return pull_model(&((const struct models_options *)context)->pull, words[0], err);
}

static bool cached(void *context, const char *const *words, struct err *err)
{
    return cached_list(&((const struct models_options *)context)->cached, err);
}

static bool evict(void *context, const char *const *words, struct err *err)
{
    return cached_evict(&((const struct models_options *)context)->cached, words[0], err);
}

static const struct action actions[] = {
    {"list", NULL, "base models and results of a running server", list},
    {"pull", "ORG/NAME", "fetches a model from the Hugging Face Hub (HF_ENDPOINT) into its cache, where servers and "
                         "other tools find it", pull},
    {"cached", NULL, "lists what lies in the cache", cached},
    {"evict", "ORG/NAME", "removes a model from the cache", evict},
    {"merge", "BASE ADAPTER --out DIR", "works a PEFT adapter into its base: a model that needs no adapter", merge},
    {"quantize", "MODEL --out DIR", "writes a model's linear layers with four bits (NF4), as bitsandbytes has it",
     quantize},
};

static bool check(const struct action *action, void *context, struct err *err)
{
    struct models_options *o = context;

    o->cached.cache = o->pull.cache;
    if ((action->run == merge || action->run == quantize) && !o->out)
        return err_set(err, ERR_INPUT, "%s needs --out, the folder to write", action->name);
    if (strcmp(o->dtype, "float32") != 0 && strcmp(o->dtype, "bfloat16") != 0)
        return err_set(err, ERR_INPUT, "--dtype takes float32 or bfloat16, not '%s'", o->dtype);
    return true;
}

int cli_models(int argc, char **argv)
{
    struct models_options o = {.dtype = "bfloat16"};
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
    const struct options options = {.usage = "attune models ACTION [options]",
                                    .about = "Models of a running server, and, without one, folders of models.",
                                    .list = option,
                                    .count = sizeof option / sizeof *option,
                                    .actions = actions,
                                    .action_count = sizeof actions / sizeof *actions,
                                    .check = check};
    return options_act(&options, argc, argv, &o);
}
