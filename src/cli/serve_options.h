/* cli/serve_options.h - what 'attune serve' is told on its command line. */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct serve_options {
    const char *data, *models, *host, *public_host, *tls_cert, *tls_key, *access_log, *devices;
    int64_t port, jobs, memory, recovery_steps, disk_free_min, connections_per_address, auth_failures, audit_days, nice,
        hung_seconds, hub_bytes_max;
    bool is_open;
    const char *secret_key_file, *outgoing, *wandb_url;
    int64_t secret_key_fd;
};

/* Defaults for what argv leaves out. False when something is unknown, out of its range, or does not fit together. */
bool serve_options_read(struct serve_options *options, int argc, char **argv, struct err *err);
/* Whether only this machine reaches the server. */
bool serve_is_local(const struct serve_options *options);
