CREATE TABLE admin_domain (id INTEGER, name TEXT, type TEXT, enabled INTEGER);
CREATE TABLE admin_alias (id INTEGER, address TEXT, enabled INTEGER);
CREATE TABLE modoboa_aliasrecipient (address TEXT, alias_id INTEGER);
INSERT INTO admin_domain VALUES (1, 'example.org', 'domain', 1);
INSERT INTO admin_alias VALUES (1, 'jack@example.org', 1);
INSERT INTO modoboa_aliasrecipient VALUES ('john@example.org', 1)
