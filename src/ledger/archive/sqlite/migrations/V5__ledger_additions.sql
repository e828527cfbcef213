-- Records of no tenant are adopted by their box once it has an identity. Until then they have
-- no position, and there is no tree over them.
UPDATE requests SET position = NULL
    WHERE tenant = (SELECT id FROM tenants WHERE name = '') AND position IS NOT NULL;
DELETE FROM trees WHERE tenant = '';
DELETE FROM tiles WHERE tenant = '';
DELETE FROM checkpoints WHERE tenant = '';
