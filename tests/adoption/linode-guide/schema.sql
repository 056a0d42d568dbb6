CREATE TABLE virtual_domains (id INT, name VARCHAR(50));
CREATE TABLE virtual_users (id INT, domain_id INT, email VARCHAR(100), password VARCHAR(106));
CREATE TABLE virtual_aliases (id INT, domain_id INT, source VARCHAR(100), destination VARCHAR(100));
INSERT INTO virtual_domains VALUES (1, 'example.org');
INSERT INTO virtual_users VALUES (1, 1, 'john@example.org', '!');
INSERT INTO virtual_aliases VALUES (1, 1, 'jack@example.org', 'john@example.org')
