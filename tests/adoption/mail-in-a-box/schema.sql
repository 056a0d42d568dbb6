CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, password TEXT);
CREATE TABLE aliases (id INTEGER PRIMARY KEY, source TEXT, destination TEXT, permitted_senders TEXT);
CREATE TABLE auto_aliases (id INTEGER PRIMARY KEY, source TEXT, destination TEXT);
INSERT INTO users VALUES (1, 'john@example.org', '!');
INSERT INTO aliases VALUES (1, 'jack@example.org', 'john@example.org', NULL)
