CREATE TABLE mail_domain (domain VARCHAR(255), active CHAR(1), server_id INT);
CREATE TABLE mail_forwarding (source VARCHAR(255), destination TEXT, type VARCHAR(20), active CHAR(1), server_id INT);
CREATE TABLE mail_user (email VARCHAR(255), login VARCHAR(255), uid INT, postfix CHAR(1), forward_in_lda CHAR(1), disabledeliver CHAR(1), server_id INT);
CREATE TABLE mail_transport (domain VARCHAR(255), transport VARCHAR(255), active CHAR(1), server_id INT);
CREATE TABLE mail_access (source VARCHAR(255), access VARCHAR(255), type VARCHAR(20), active CHAR(1));
INSERT INTO mail_domain VALUES ('example.org', 'y', 1);
INSERT INTO mail_forwarding VALUES ('jack@example.org', 'john@example.org', 'alias', 'y', 1), ('@example.org', 'all@example.net', 'catchall', 'y', 1), ('also.example.org', 'example.org', 'aliasdomain', 'y', 1);
INSERT INTO mail_user VALUES ('john@example.org', 'john@example.org', 5000, 'y', 'n', 'n', 1);
INSERT INTO mail_transport VALUES ('example.org', 'smtp:192.0.2.7', 'y', 1)
