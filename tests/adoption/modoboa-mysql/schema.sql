CREATE TABLE admin_domain (id INT, name VARCHAR(100), type VARCHAR(20), enabled TINYINT);
CREATE TABLE admin_domainalias (name VARCHAR(100), target_id INT, enabled TINYINT);
CREATE TABLE admin_alias (id INT, address VARCHAR(254), user_id INT, enabled TINYINT);
CREATE TABLE modoboa_aliasrecipient (address VARCHAR(254), alias_id INT);
CREATE TABLE core_user (id INT, email VARCHAR(254), is_active TINYINT);
INSERT INTO admin_domain VALUES (1, 'example.org', 'domain', 1);
INSERT INTO admin_domainalias VALUES ('also.example.org', 1, 1);
INSERT INTO core_user VALUES (1, 'john@example.org', 1);
INSERT INTO admin_alias VALUES (1, 'jack@example.org', 1, 1);
INSERT INTO modoboa_aliasrecipient VALUES ('john@example.org', 1)
