"""End-to-end tests against ``oidc-provider``, an authorization server that is not ours."""
