#include "model/plan.h"

void plan_recomputed(const struct plan *plan, int32_t layers, struct strbuf *out)
{
    static const struct {
        const char *name;
        uint8_t keep;
    } groups[] = {{"norms", KEEP_NORM1}, {"gate-up", KEEP_GATE_UP}, {"qkv", KEEP_QKV}, {"attention", KEEP_ATTENTION}};
    bool is_first = true;

    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        int32_t count = 0;
        for (int32_t l = 0; l < layers; l++)
            count += !(plan->keep[l] & groups[i].keep);
        if (!count)
            continue;
        strbuf_printf(out, "%s%s in %d of %d layers", is_first ? "" : ", ", groups[i].name, count, layers);
        is_first = false;
    }
    if (is_first)
        strbuf_add_text(out, "nothing");
}

void plan_print(const struct plan *plan, const struct model_config *config, struct strbuf *out)
{
    strbuf_printf(out, "plan  %s  %d tokens a micro-batch  %d rows a head chunk", config->model_type, plan->tokens,
                  plan->head_rows);
    if (plan->limit_bytes)
        strbuf_printf(out, "  limit %.3f GB", (double)plan->limit_bytes / 1e9);
    strbuf_add_text(out, "\n");
    for (int i = 0; i < plan->region_count; i++)
        strbuf_printf(out, "  %-18s %12.3f MB  %s%s\n", plan->region[i].name, (double)plan->region[i].bytes / 1e6,
                      plan->region[i].formula, plan->region[i].is_on_host ? ", in the host's memory" : "");
    strbuf_printf(out, "  %-18s %12.3f MB\n  recomputed: ", "total", (double)plan->total_bytes / 1e6);
    plan_recomputed(plan, config->layers, out);
    strbuf_add_text(out, "\n");
}

void plan_write(const struct plan *plan, const struct model_config *config, struct json_writer *writer)
{
    json_write_begin_object(writer);
    json_put_integer(writer, "format", 1);
    json_put_integer(writer, "tokens", plan->tokens);
    json_put_integer(writer, "head_rows", plan->head_rows);
    json_put_integer(writer, "positions", plan->positions);
    json_write_key(writer, "keep");
    json_write_begin_array(writer);
    for (int32_t l = 0; l < config->layers; l++)
        json_write_integer(writer, plan->keep[l]);
    json_write_end_array(writer);
    json_put_bool(writer, "moments_on_host", plan->moments_on_host);
    json_write_key(writer, "regions");
    json_write_begin_array(writer);
    for (int i = 0; i < plan->region_count; i++) {
        json_write_begin_object(writer);
        json_put_text(writer, "name", plan->region[i].name);
        json_put_text(writer, "formula", plan->region[i].formula);
        json_put_integer(writer, "bytes", (int64_t)plan->region[i].bytes);
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
    json_put_integer(writer, "total_bytes", (int64_t)plan->total_bytes);
    json_put_integer(writer, "host_bytes", (int64_t)plan->host_bytes);
    json_write_end_object(writer);
}

static bool read_count(const struct json *json, const char *key, int32_t *value, struct err *err)
{
    int64_t number = json_integer_or(json_get(json, key), 0);

    if (number < 1 || number > 1 << 24)
        return err_set(err, ERR_INPUT, "plan.json: %s must be from 1 to 16,777,216", key);
    *value = (int32_t)number;
    return true;
}

bool plan_read(const struct json *json, const struct model_config *config, struct plan *plan, struct err *err)
{
    const struct json *keep = json_get(json, "keep");
    int32_t layer = 0;

    *plan = (struct plan){0};
    if (json_integer_or(json_get(json, "format"), 0) != 1)
        return err_set(err, ERR_INPUT, "plan.json is not of format 1");
    if (!read_count(json, "tokens", &plan->tokens, err) || !read_count(json, "head_rows", &plan->head_rows, err) ||
        !read_count(json, "positions", &plan->positions, err))
        return false;
    if (!json_has_type(keep, JSON_ARRAY) || keep->count != (uint32_t)config->layers)
        return err_set(err, ERR_INPUT, "plan.json is not for this model: keep must list %d layers", config->layers);
    json_each(item, keep) {
        int64_t mask = json_integer_or(item, -1);
        if (mask < 0 || mask > KEEP_ALL)
            return err_set(err, ERR_INPUT, "plan.json: keep holds something else than masks from 0 to %d",
                           KEEP_ALL);
        plan->keep[layer++] = (uint8_t)mask;
    }
    plan->moments_on_host = json_bool_or(json_get(json, "moments_on_host"), false);
    return true;
}
