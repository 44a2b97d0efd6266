"""Data at rest: raw shards (:mod:`shards`), tokens (:mod:`tokens`), their commits (:mod:`manifest`), jobs (:mod:`jobs`)."""
