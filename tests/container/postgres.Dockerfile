# Postgres as its public image behaves: the first start makes the cluster and
# runs what is in /docker-entrypoint-initdb.d.
FROM MACHINE
RUN mkdir -p /etc /tmp /var/lib/postgresql/data /docker-entrypoint-initdb.d \
    && chmod 1777 /tmp \
    && echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >/etc/passwd \
    && ln -s /usr/lib/postgresql/*/bin /postgres \
    && printf '%s\n' \
        'set -eu' \
        'export PGDATA=/var/lib/postgresql/data PGHOST=/tmp' \
        'if [ ! -s "$PGDATA/PG_VERSION" ]; then' \
        '    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256' \
        '    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"' \
        '    export PGPASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"' \
        '    pg_ctl -w -o "-k /tmp -c listen_addresses=" start' \
        '    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"' \
        '    for script in /docker-entrypoint-initdb.d/*.sh; do sh "$script"; done' \
        '    pg_ctl -w stop' \
        'fi' \
        'exec postgres -k /tmp -c "listen_addresses=*"' >/entrypoint.sh \
    && chown -R 999:999 /var/lib/postgresql
ENV PATH=/postgres:/usr/bin:/bin
USER 999:999
ENTRYPOINT ["sh", "/entrypoint.sh"]
