#include "cli/serve_options.h"
#include "cli/options.h"

#include <string.h>

static const struct serve_options serve_defaults = {
    .host = "127.0.0.1",
    .port = 8080,
    .jobs = 1,
    .nice = 10,
    .hung_seconds = 600,
    .disk_free_min = -1,
    .connections_per_address = 64,
    .auth_failures = 10,
    .audit_days = 365,
    .secret_key_fd = -1,
};

bool serve_is_local(const struct serve_options *o)
{
    return strncmp(o->host, "127.", 4) == 0 || strcmp(o->host, "::1") == 0;
}

static bool check_ranges(const struct serve_options *o, struct err *err)
{
    const struct {
        const char *option;
        int64_t value, min, max;
    } ranges[] = {
        {"port", o->port, 0, 65535},
        {"jobs", o->jobs, 1, 1024},
        {"nice", o->nice, 0, 19},
        {"recovery-steps", o->recovery_steps, 0, INT64_MAX},
        {"hung-seconds", o->hung_seconds, 1, 24 * 60 * 60},
        {"memory", o->memory, 0, INT64_MAX},
        {"disk-free-min", o->disk_free_min, -1, INT64_MAX},
        {"hub-bytes-max", o->hub_bytes_max, 0, INT64_MAX},
        {"connections-per-address", o->connections_per_address, 0, 1024},
        {"audit-days", o->audit_days, 1, 100 * 366},
        {"auth-failures", o->auth_failures, 0, 1000000},
        {"secret-key-fd", o->secret_key_fd, -1, INT32_MAX},
    };

    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const char *option = ranges[i].option;
        long long value = ranges[i].value, min = ranges[i].min, max = ranges[i].max;

        if (value < min && max == INT64_MAX)
            return err_set(err, ERR_INPUT, "--%s must be at least %lld, not %lld", option, min, value);
        if (value < min || value > max)
            return err_set(err, ERR_INPUT, "--%s must be from %lld to %lld, not %lld", option, min, max, value);
    }
    return true;
}

static bool check_options(const struct serve_options *o, struct err *err)
{
    if (!o->data)
        return err_set(err, ERR_INPUT, "--data is required: the folder for the database, files and runs");
    if (o->is_open && !serve_is_local(o))
        return err_set(
            err, ERR_INPUT,
            "--no-auth works on loopback only (127.0.0.1 or ::1): on %s everybody who reaches the port could use it",
            o->host);
    return check_ranges(o, err);
}

bool serve_options_read(struct serve_options *o, int argc, char **argv, struct err *err)
{
    bool has_auth = true;
    const struct option list[] = {
        {"data", OPTION_TEXT, &o->data, "DIR",
         "database, files and runs; made when absent, but not the folder around it", NULL},
        {"models", OPTION_TEXT, &o->models, "DIR", "base models: org/name below it, each a Hugging Face folder",
         NULL},
        {"host", OPTION_TEXT, &o->host, "ADDRESS", "IPv4 or IPv6 address to listen on (default 127.0.0.1)",
         NULL},
        {"public-host", OPTION_TEXT, &o->public_host, "NAME",
         "on loopback: also take requests whose Host is NAME, a proxy's", NULL},
        {"port", OPTION_INT, &o->port, "N", "0: any free one (default 8080)", NULL},
        {"auth", OPTION_FLAG, &has_auth, NULL, "requests need an API key; --no-auth works on loopback only", NULL},
        {"jobs", OPTION_INT, &o->jobs, "N",
         "fine-tuning jobs at once on the processor (default 1); a GPU has one", NULL},
        {"devices", OPTION_TEXT, &o->devices, "LIST",
         "what jobs and chats run on: cpu, cuda (every GPU), cuda:1 … (default: cpu,cuda where there is a GPU)", NULL},
        {"nice", OPTION_INT, &o->nice, "N", "niceness of trainers, 0 to 19: the server goes first (default 10)",
         NULL},
        {"recovery-steps", OPTION_INT, &o->recovery_steps, "N",
         "a recovery point every N steps (default: every two minutes)", NULL},
        {"hung-seconds", OPTION_INT, &o->hung_seconds, "N",
         "a trainer that gives no sign of life for so long is killed and its job resumed (default 600)", NULL},
        {"memory", OPTION_INT, &o->memory, "BYTES",
         "that all jobs and chat workers may take together (default: nine tenths of the machine's)", NULL},
        {"disk-free-min", OPTION_INT, &o->disk_free_min, "BYTES",
         "that uploads and jobs leave free on the data folder's disk (default: 1 GiB or a twentieth of it)", NULL},
        {"access-log", OPTION_TEXT, &o->access_log, "FILE",
         "a line of JSON for each request: when, from where, method, path, status, bytes, time", NULL},
        {"tls-cert", OPTION_TEXT, &o->tls_cert, "FILE",
         "speak HTTPS alone, with this certificate and its chain (PEM; SIGHUP loads it anew)", NULL},
        {"tls-key", OPTION_TEXT, &o->tls_key, "FILE", "the certificate's key (PEM, not encrypted)", NULL},
        {"connections-per-address", OPTION_INT, &o->connections_per_address, "N",
         "connections that one client address may have open (default 64; 0: no limit, as behind a proxy)", NULL},
        {"audit-days", OPTION_INT, &o->audit_days, "N", "how long the audit log is kept (default 365)", NULL},
        {"auth-failures", OPTION_INT, &o->auth_failures, "N",
         "wrong keys a minute from one address, after five at once (default 10; 0: no limit)", NULL},
        {"hub-bytes-max", OPTION_INT, &o->hub_bytes_max, "BYTES",
         "that models of the Hub may take on the disk in all (default: down to --disk-free-min)", NULL},
        {"outgoing", OPTION_TEXT, &o->outgoing, "ORIGINS",
         "that jobs' integrations and downloads of models may reach: https://host, https://anywhere, "
         "internal:http://10.0.0.5:5000 (default: none)",
         NULL},
        {"wandb-url", OPTION_TEXT, &o->wandb_url, "URL",
         "the W&B server (default: WANDB_BASE_URL, else https://api.wandb.ai); --outgoing has to list it, too", NULL},
        {"secret-key-file", OPTION_TEXT, &o->secret_key_file, "FILE",
         "master key of secrets (default: attune/secret.key in the user's configuration folder, made when absent)",
         NULL},
        {"secret-key-fd", OPTION_INT, &o->secret_key_fd, "N", "read the master key from this descriptor", NULL},
    };
    const struct options options = {
        .usage = "attune serve --data DIR [--models DIR] [options]",
        .about = "The fine-tuning API. A data folder without any API key gets a first one, in DIR/first-key. Jobs "
                 "run on when the server stops, and a new server goes on with them.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };

    *o = serve_defaults;
    if (!options_parse(&options, argc, argv, NULL, NULL, err))
        return false;
    o->is_open = !has_auth;
    return check_options(o, err);
}
