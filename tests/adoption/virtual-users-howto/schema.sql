CREATE TABLE domains (domain VARCHAR(50) PRIMARY KEY);
CREATE TABLE forwardings (source VARCHAR(80) PRIMARY KEY, destination TEXT);
CREATE TABLE users (email VARCHAR(80) PRIMARY KEY, password VARCHAR(20), quota INT DEFAULT 10485760);
CREATE TABLE transport (domain VARCHAR(128), transport VARCHAR(128));
INSERT INTO domains VALUES ('example.org');
INSERT INTO users (email, password) VALUES ('john@example.org', '!');
INSERT INTO forwardings VALUES ('jack@example.org', 'john@example.org');
INSERT INTO transport VALUES ('example.org', 'smtp:[192.0.2.7]')
